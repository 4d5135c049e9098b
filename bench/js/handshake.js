'use strict'
// Secret handshakes a second, both sides in this process, joined in memory.

const crypto = require('crypto')
const pull = require('pull-stream')
const shs = require('secret-handshake')
const drive = require('./drive')

const appKey = crypto.randomBytes(32)
const alice = shs.toKeys(crypto.randomBytes(32))
const bob = shs.toKeys(crypto.randomBytes(32))
const client = shs.createClient(alice, appKey, 5000)
const server = shs.createServer(bob, (_id, cb) => cb(null, true), appKey, 5000)

function handshake () {
  return new Promise((resolve, reject) => {
    let open = 2
    const done = (err, stream) => {
      if (err) return reject(err)
      const want = open === 2 ? null : [alice.publicKey, bob.publicKey]
      if (want && !want.some((key) => key.equals(stream.remote))) return reject(new Error('wrong peer'))
      if (--open === 0) resolve()
    }
    const a = client(bob.publicKey, done)
    pull(a, server(done), a)
  })
}

drive(async (seconds) => {
  const start = drive.now()
  let count = 0
  while (drive.now() - start < seconds) {
    await handshake()
    count++
    if (count % 64 === 0) await drive.tick()
  }
  return count / (drive.now() - start)
})
