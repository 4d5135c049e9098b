'use strict'

// pull-box-stream on bytes: seals chunks, opens what the test has sealed.

const boxes = require('pull-box-stream')
const pull = require('pull-stream')
const { serve, outcome } = require('./lib/control')

const b64 = (s) => Buffer.from(s, 'base64')

function run (chunks, through) {
  return new Promise((resolve) => {
    const out = []
    pull(
      pull.values(chunks.map(b64)),
      through,
      pull.drain((b) => out.push(b.toString('base64')), (err) => {
        resolve({ chunks: out, end: outcome(err) })
      })
    )
  })
}

serve({
  seal: ({ key, nonce, chunks }) => run(chunks, boxes.createBoxStream(b64(key), b64(nonce))),
  open: ({ key, nonce, chunks }) => run(chunks, boxes.createUnboxStream(b64(key), b64(nonce)))
})
