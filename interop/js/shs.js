'use strict'

// secret-handshake with its box stream over TCP and nothing on top: the server
// sends back what it gets, the client sends and tells what came back.

const net = require('net')
const pull = require('pull-stream')
const toPull = require('stream-to-pull-stream')
const { serve, event, outcome } = require('./lib/control')
const { seed, keypair, fixRandom } = require('./lib/seeds')

if (process.env.INTEROP_RANDOM) fixRandom(process.env.INTEROP_RANDOM)
const shs = require('secret-handshake')

const b64 = (s) => Buffer.from(s, 'base64')
let server

function about (stream) {
  const { encryptKey, decryptKey, encryptNonce, decryptNonce } = stream.crypto
  return {
    remote: stream.remote.toString('base64'),
    auth: stream.auth,
    sendKey: encryptKey.toString('base64'),
    receiveKey: decryptKey.toString('base64'),
    sendNonce: encryptNonce.toString('base64'),
    receiveNonce: decryptNonce.toString('base64')
  }
}

/** authorize: true (default), false, or an error text. */
function listen ({ name, appKey, authorize = true, timeout = 5000, quiet }) {
  const answer = (remote, cb) => {
    if (typeof authorize === 'string') return cb(new Error(authorize))
    cb(null, authorize)
  }
  const create = shs.createServer(keypair(name), answer, b64(appKey), timeout)
  server = net.createServer((socket) => {
    const duplex = toPull.duplex(socket)
    pull(duplex, create((err, stream) => {
      if (err) return event('handshake', { end: outcome(err) })
      event('handshake', { end: null, ...about(stream) })
      let bytes = 0
      const done = (err) => event('ended', { end: outcome(err), bytes })
      const count = pull.through((b) => { bytes += b.length }, done)
      if (quiet) return pull(stream, count, pull.onEnd(() => {}), pull.drain())
      pull(stream, count, stream)
    }), duplex)
  })
  return new Promise((resolve) => {
    server.listen(0, '127.0.0.1', () => resolve({
      port: server.address().port,
      key: keypair(name).publicKey.toString('base64')
    }))
  })
}

/** Dials, sends chunks (base64), ends, and resolves with all that came back. */
function dial ({ port, name, appKey, remote, chunks = [], timeout = 5000, useSeed }) {
  const local = useSeed ? null : keypair(name)
  const create = shs.createClient(local, b64(appKey), timeout)
  return new Promise((resolve) => {
    const socket = net.connect(port, '127.0.0.1')
    socket.once('error', (err) => resolve({ end: outcome(err), stage: 'dial' }))
    socket.once('connect', () => {
      const duplex = toPull.duplex(socket)
      const ready = (err, stream) => {
        if (err) return resolve({ end: outcome(err), stage: 'handshake' })
        pull(
          pull.values(chunks.map(b64)),
          stream,
          pull.collect((err, parts) => resolve({
            end: outcome(err),
            stage: 'stream',
            received: Buffer.concat(parts).toString('base64'),
            ...about(stream)
          }))
        )
      }
      const transform = useSeed ? create(b64(remote), seed(name), ready) : create(b64(remote), ready)
      pull(duplex, transform, duplex)
    })
  })
}

serve({ listen, dial })
