'use strict'

// Calls a method of a peer and says how it went, in one object.

const crypto = require('crypto')
const pull = require('pull-stream')
const { event, tag, untag, outcome } = require('./control')

function method (rpc, path) {
  let at = rpc
  let self = rpc
  for (const part of path.split('.')) {
    self = at
    at = at && at[part]
  }
  if (typeof at !== 'function') throw new Error(`no method ${path} in the manifest`)
  return at.bind(self)
}

/** What was received, as values, or only counted when {summary: true}. */
function collector ({ summary }) {
  const items = []
  const hash = crypto.createHash('sha256')
  let count = 0
  let bytes = 0
  return {
    add (value) {
      count++
      if (!summary) return items.push(tag(value))
      const data = Buffer.isBuffer(value) ? value : Buffer.from(JSON.stringify(value))
      bytes += data.length
      hash.update(data)
    },
    result: () => summary ? { count, bytes, sha256: hash.digest('hex') } : { count, items }
  }
}

/** The source of what we send: items, or {generate:{count,size}}; then end, error or wait. */
function sending ({ items = [], generate, end = 'end', message }) {
  const values = items.map(untag)
  const total = generate ? generate.count : values.length
  const chunk = generate && generate.size ? require('./plugin').pattern(generate.size) : null
  let i = 0
  return (abort, cb) => {
    if (abort) {
      event('send aborted', { end: outcome(abort), sent: i })
      return cb(abort)
    }
    if (i < total) return cb(null, generate ? (i++, chunk || i - 1) : values[i++])
    if (end === 'error') return cb(new Error(message))
    if (end === 'end') return cb(true)
  }
}

function receiving (got, { take, pause }, done) {
  let n = 0
  const steps = []
  if (pause) steps.push(pull.asyncMap((v, cb) => setTimeout(() => cb(null, v), pause)))
  if (take !== undefined) steps.push(pull.take(take))
  return pull(...steps, pull.drain((v) => {
    got.add(v)
    if (++n === 1) event('first item', null)
  }, done))
}

function call (rpc, { path, type, args = [], ...options }) {
  const fn = method(rpc, path)
  const values = args.map(untag)
  const got = collector(options)
  return new Promise((resolve) => {
    const finish = (err) => resolve({ end: outcome(err), ...got.result() })
    switch (type) {
      case 'source':
        return pull(fn(...values, () => {}), receiving(got, options, finish))
      case 'sink':
        return pull(sending(options), fn(...values, finish))
      case 'duplex': {
        const stream = fn(...values, () => {})
        pull(sending(options), stream.sink)
        return pull(stream.source, receiving(got, options, finish))
      }
      default:
        return fn(...values, (err, value) => {
          if (!err) got.add(value)
          finish(err)
        })
    }
  })
}

module.exports = { call }
