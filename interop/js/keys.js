'use strict'

// ssb-keys: makes, loads and uses identity files.

const ssbKeys = require('ssb-keys')
const { serve } = require('./lib/control')
const { seed } = require('./lib/seeds')

serve({
  create: ({ file }) => ssbKeys.createSync(file),
  load: ({ file }) => ssbKeys.loadSync(file),
  loadOrCreate: ({ file }) => ssbKeys.loadOrCreateSync(file),
  generate: ({ name }) => ssbKeys.generate('ed25519', seed(name)),
  sign: ({ keys, message }) => ssbKeys.sign(keys, Buffer.from(message, 'base64')),
  verify: ({ id, signature, message }) => ssbKeys.verify({ public: id.slice(1), curve: 'ed25519' }, signature, Buffer.from(message, 'base64'))
})
