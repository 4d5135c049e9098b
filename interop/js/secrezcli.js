'use strict'

// The chat part of Secrez's command line, as far as a courier can tell: it
// calls its courier over HTTPS on this machine, trusts whatever certificate it
// meets first and afterwards only what "ready" has named, signs each call and
// seals each message with Secrez's own crypto package.

const https = require('https')
const Crypto = require('@secrez/crypto')
const { Account } = require('./lib/account')
const { serve } = require('./lib/control')

/** A signed GET, as callCourier makes it. */
function call (port, path, { payload, signature }, ca) {
  const url = `https://localhost:${port}${path}?payload=${encodeURIComponent(payload)}&signature=${encodeURIComponent(signature)}`
  const trust = ca ? { ca } : { rejectUnauthorized: false }
  return new Promise((resolve, reject) => {
    https.get(url, { ...trust, agent: false }, (res) => {
      let body = ''
      res.setEncoding('utf8')
      res.on('data', chunk => { body += chunk })
      res.on('end', () => resolve({ status: res.statusCode, body }))
      res.on('error', reject)
    }).on('error', reject)
  })
}

function shared (name, theirs) {
  return Crypto.getSharedSecret(Crypto.getBoxPublicKeyFromSecretPublicKey(theirs), new Account(name).box.secretKey)
}

serve({
  publicKey: ({ name }) => new Account(name).publicKey,
  call: ({ port, path, name, body, ca }) => call(port, path, new Account(name).payload(body), ca),

  /** The inner payload of a message. */
  seal: ({ name, to, text }) => new Account(name).payload({ message: Crypto.boxEncrypt(shared(name, to), text) }),
  open: ({ name, from, payload }) => Crypto.boxDecrypt(shared(name, from), JSON.parse(payload).message)
})
