'use strict'
// Async calls a second: node call.js 1 (one at a time) or node call.js 64 (that many in flight).
// One at a time, both ends are in this process, 64 in flight they are in two: each time the faster of the two ways.

const { serve, dial, start } = require('./stack')
const drive = require('./drive')

const text = 'an echo of thirty-two characters'
const api = { echo: (value, cb) => cb(null, value) }
const inFlight = Number(process.argv[2])

function measure (rpc) {
  return (seconds) => new Promise((resolve, reject) => {
    const start = drive.now()
    let count = 0
    let open = 0
    const next = () => {
      open++
      rpc.echo(text, (err, value) => {
        open--
        if (err || value !== text) return reject(err || new Error('wrong echo'))
        count++
        if (drive.now() - start < seconds) return next()
        if (open === 0) resolve(count / (drive.now() - start))
      })
    }
    for (let i = 0; i < inFlight; i++) next()
  })
}

if (process.argv[2] === 'serve') {
  serve(api, (address) => process.send(address))
} else if (inFlight === 1) {
  serve(api, (address) => dial(address, (rpc) => drive(measure(rpc))))
} else {
  start(__filename, (address) => dial(address, (rpc) => drive(measure(rpc))))
}
