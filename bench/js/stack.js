'use strict'
// The transport of a JavaScript peer as it is used: multiserver's net and shs, muxrpc on top.

const net = require('net')

// What multiserver does not do: sends small packets at once. For the figures marked NODELAY only.
if (process.env.BENCH_NODELAY) {
  const { createServer, connect } = net
  net.createServer = (opts, onSocket) => createServer(opts, (socket) => onSocket(socket.setNoDelay(true)))
  net.connect = (opts) => connect(opts).setNoDelay(true)
}

const crypto = require('crypto')
const { fork } = require('child_process')
const pull = require('pull-stream')
const muxrpc = require('muxrpc')
const multiserver = require('multiserver')
const netPlugin = require('multiserver/plugins/net')
const shsPlugin = require('multiserver/plugins/shs')
const toKeys = require('secret-handshake').toKeys

const appKey = Buffer.alloc(32, 3)
const manifest = { echo: 'async', items: 'source', chunks: 'source' }

function server (port) {
  const keys = toKeys(crypto.randomBytes(32))
  return multiserver([[
    netPlugin({ scope: 'device', host: '127.0.0.1', port }),
    shsPlugin({ keys, appKey, auth: (_id, cb) => cb(null, true), timeout: 5000 })
  ]])
}

// serve hands out the address to call. onSent hears of the bytes that have left muxrpc for the connection.
function serve (api, onAddress, onSent = () => {}) {
  // multiserver takes port 0 for "choose one at random", so a free port is asked for first.
  const probe = net.createServer({}, () => {})
  probe.listen(0, '127.0.0.1', () => {
    const { port } = probe.address()
    probe.close(() => {
      const ms = server(port)
      ms.server((stream) => {
        const rpc = muxrpc(null, manifest, api)
        const sent = pull.through((bytes) => onSent(bytes.length))
        pull(stream, rpc.stream, sent, stream)
      }, null, (err) => {
        if (err) throw err
        onAddress(ms.stringify('device'))
      })
    })
  })
}

// start runs `file serve` as a process of its own, which sends the address to call.
function start (file, onAddress) {
  const child = fork(file, ['serve'], { execArgv: process.execArgv })
  process.on('exit', () => child.kill())
  child.once('message', onAddress)
}

function dial (address, cb) {
  server(1).client(address, (err, stream) => {
    if (err) throw err
    const rpc = muxrpc(manifest)
    pull(stream, rpc.stream, stream)
    cb(rpc)
  })
}

module.exports = { serve, start, dial }
