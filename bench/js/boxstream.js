'use strict'
// Megabytes a second through a box stream written 64 KiB at a time.
//   node boxstream.js memory   both ends in this process
//   node boxstream.js tcp      the reader in a process of its own, over loopback TCP

const net = require('net')
const { fork } = require('child_process')
const pull = require('pull-stream')
const toPull = require('stream-to-pull-stream')
const boxes = require('pull-box-stream')
require('chloride')
const drive = require('./drive')

const key = Buffer.alloc(56, 7) // 32 bytes of key, 24 of nonce
const chunk = Buffer.alloc(64 * 1024, 1)

// untilEnd is a source of chunks that ends by itself.
function untilEnd (end) {
  return (abort, cb) => {
    if (abort) return cb(abort)
    if (drive.now() >= end) return cb(true)
    cb(null, chunk)
  }
}

function inMemory (seconds) {
  return new Promise((resolve, reject) => {
    const start = drive.now()
    let bytes = 0
    pull(
      untilEnd(start + seconds),
      boxes.createBoxStream(key),
      boxes.createUnboxStream(key),
      pull.drain((data) => { bytes += data.length }, (err) => {
        if (err) return reject(err)
        resolve(bytes / 1e6 / (drive.now() - start))
      })
    )
  })
}

function overTCP (port) {
  return (seconds) => new Promise((resolve, reject) => {
    const socket = net.connect(port, '127.0.0.1', () => {
      const end = drive.now() + seconds
      pull(untilEnd(end), boxes.createBoxStream(key), toPull.sink(socket, (err) => err && reject(err)))
    })
    socket.on('error', reject)
    reader.once('message', (m) => m.error ? reject(new Error(m.error)) : resolve(m.rate))
  })
}

// The reader's process: one measurement a connection, told to the parent.
function read () {
  const server = net.createServer((socket) => {
    const start = drive.now()
    let bytes = 0
    pull(
      toPull.source(socket),
      boxes.createUnboxStream(key),
      pull.drain((data) => { bytes += data.length }, (err) => {
        process.send(err ? { error: String(err) } : { rate: bytes / 1e6 / (drive.now() - start) })
        socket.destroy()
      })
    )
  })
  server.listen(0, '127.0.0.1', () => process.send({ port: server.address().port }))
}

let reader
if (process.argv[2] === 'read') {
  read()
} else if (process.argv[2] === 'tcp') {
  reader = fork(__filename, ['read'], { execArgv: process.execArgv })
  reader.once('message', (m) => drive(overTCP(m.port)))
  process.on('exit', () => reader.kill())
} else {
  drive(inMemory)
}
