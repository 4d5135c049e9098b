'use strict'

// muxrpc alone over TCP, without handshake or encryption: its frames are the
// bytes on the wire. {version: 6} takes muxrpc 6.7.

const net = require('net')
const path = require('path')
const pull = require('pull-stream')
const toPull = require('stream-to-pull-stream')
const { serve, event } = require('./lib/control')
const plugin = require('./lib/plugin')
const Sessions = require('./lib/sessions')

const sessions = Sessions()
let server

const muxrpc8 = require('muxrpc')
const stack6 = path.dirname(require.resolve('secret-stack-6/package.json'))
const muxrpc6 = require(require.resolve('muxrpc', { paths: [stack6] }))

const manifest = {
  manifest: 'async',
  test: plugin.manifest,
  nowhere: 'async'
}

const prefixed = (names) => names.map((name) => `test.${name}`)

const permissions = {
  allow: ['manifest', 'nowhere', ...prefixed(plugin.permissions.anonymous.allow)],
  deny: prefixed(plugin.permissions.anonymous.deny)
}

function localApi () {
  return { manifest: (cb) => cb(null, manifest), test: plugin.create() }
}

/** Puts muxrpc on a socket; with {bootstrap: true} it asks the other side for its manifest. */
function attach (socket, { version = 8, bootstrap, id = '@peer' }, ready) {
  const remote = bootstrap ? (err) => event('bootstrapped', err ? { error: err.message } : {}) : manifest
  const rpc = version === 6
    ? muxrpc6(remote, manifest, localApi(), id, permissions, false)
    : muxrpc8(remote, manifest, localApi(), permissions)
  rpc.id = rpc.id || id
  socket.setNoDelay(true) // headers and bodies are written apart: do not wait for acknowledgements between
  const duplex = toPull.duplex(socket)
  pull(duplex, rpc.stream, duplex)
  ready(sessions.add(rpc, {}))
}

serve({
  listen: (options) => new Promise((resolve) => {
    server = net.createServer((socket) => attach(socket, options, () => {}))
    server.listen(0, '127.0.0.1', () => resolve({ port: server.address().port }))
  }),
  connect: ({ port, ...options }) => new Promise((resolve, reject) => {
    const socket = net.connect(port, '127.0.0.1')
    socket.once('error', reject)
    socket.once('connect', () => attach(socket, options, resolve))
  }),
  ...sessions.ops
})
