'use strict'

// Accounts of Secrez, and payloads signed with them, with Secrez's own crypto
// package: two independent halves, made from a name so that every run has the
// same keys.

const Crypto = require('@secrez/crypto')
const { box } = require('tweetnacl')
const { seed } = require('./seeds')

class Account {
  constructor (name) {
    this.box = box.keyPair.fromSecretKey(Uint8Array.from(seed(name + ' box')))
    this.sign = Crypto.generateSignatureKeyPair(Uint8Array.from(seed(name)))
    this.publicKey = Crypto.toBase64(this.box.publicKey) + '$' + Crypto.toBase64(this.sign.publicKey)
    if (!Crypto.isValidSecrezPublicKey(this.publicKey)) throw new Error('not a key')
  }

  /** Adds the three members that every payload ends with, and signs its text. */
  payload (body) {
    const payload = JSON.stringify(Object.assign({}, body, {
      when: Date.now(),
      publicKey: this.publicKey,
      salt: Crypto.getRandomBase58String(16)
    }))
    return { payload, signature: Crypto.getSignature(payload, this.sign.secretKey) }
  }

  /** Whether that text was signed by the key it names. */
  static verify ({ payload, signature }) {
    const key = Crypto.getSignPublicKeyFromSecretPublicKey(JSON.parse(payload).publicKey)
    return Crypto.verifySignature(payload, signature, key)
  }
}

module.exports = { Account }
