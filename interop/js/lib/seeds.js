'use strict'

// Fixed identities: the seed of "alice" is sha256("alice"), so every run has
// the same keys, and recorded bytes stay true.

const crypto = require('crypto')
const chloride = require('chloride')

function seed (name) {
  return crypto.createHash('sha256').update(name).digest()
}

function keypair (name) {
  return chloride.crypto_sign_seed_keypair(seed(name))
}

/** The same identity in the shape of ssb-keys. */
function ssbKeys (name) {
  const { publicKey, secretKey } = keypair(name)
  const pub = publicKey.toString('base64') + '.ed25519'
  return {
    curve: 'ed25519',
    public: pub,
    private: secretKey.toString('base64') + '.ed25519',
    id: '@' + pub
  }
}

/** Makes the k-th ephemeral key of this process come from sha256("<name> ephemeral <k>"). */
function fixRandom (name) {
  let k = 0
  const path = require.resolve('secret-handshake/random')
  require.cache[path] = {
    id: path,
    filename: path,
    loaded: true,
    exports: (n) => seed(`${name} ephemeral ${k++}`).subarray(0, n)
  }
}

module.exports = { seed, keypair, ssbKeys, fixRandom }
