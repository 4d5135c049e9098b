'use strict'
// A source read as fast as it comes: node source.js items (items a second) or node source.js chunks
// (megabytes a second, 64 KiB each).

const pull = require('pull-stream')
const { serve, start, dial } = require('./stack')
const drive = require('./drive')

// muxrpc has no back-pressure: a source that never waits would go into memory whole, or keep its
// process from ever reading the end of the call. So the sources here give way to the event loop
// after every `batch` bytes and stay at most `maxAhead` bytes ahead of the connection.
const batch = 64 << 10
const maxAhead = 1 << 20
let ahead = 0
let resume = null

function onSent (bytes) {
  ahead -= bytes
  if (!resume || ahead > maxAhead / 2) return
  const go = resume
  resume = null
  setImmediate(go)
}

function paced (size, make) {
  let n = 0
  let given = 0
  ahead = 0
  resume = null
  return function read (abort, cb) {
    if (abort) return cb(abort)
    const give = () => {
      given += size
      ahead += size
      cb(null, make(n++))
    }
    if (ahead >= maxAhead) {
      resume = give
    } else if (given >= batch) {
      given = 0
      setImmediate(give)
    } else {
      give()
    }
  }
}

const header = 9
const chunk = Buffer.alloc(64 * 1024, 1)
const item = (n) => ({
  sequence: 100000 + n % 900000,
  author: 'a name of twenty-five chars',
  text: 'thirty-two characters of content'
})
const api = {
  items: () => paced(header + JSON.stringify(item(0)).length, item),
  chunks: () => paced(header + chunk.length, () => chunk)
}

// measure leaves out the first tenth of the time, in which the stream starts.
function measure (source, size) {
  return (seconds) => new Promise((resolve, reject) => {
    const from = drive.now() + seconds / 10
    let start = 0
    let amount = 0
    let rate = null
    pull(source(), pull.drain((value) => {
      const now = drive.now()
      if (now < from) return
      if (!start) {
        start = now
        return
      }
      amount += size(value)
      if (now - from < seconds * 0.9) return
      rate = amount / (now - start)
      return false
    }, (err) => {
      if (rate !== null) return resolve(rate)
      reject(err || new Error('the source ended'))
    }))
  })
}

const sizes = {
  items: (item) => item.sequence > 0 ? 1 : NaN,
  chunks: (bytes) => bytes.length / 1e6
}

if (process.argv[2] === 'serve') {
  serve(api, (address) => process.send(address), onSent)
} else {
  const what = process.argv[2]
  start(__filename, (address) => dial(address, (rpc) => drive(measure(() => rpc[what](), sizes[what]))))
}
