'use strict'

// The plugin "test": a method for everything that can be called. The Go tests
// serve the same names with the same behaviour, so one list of expectations
// holds in both directions.

const pull = require('pull-stream')
const pair = require('pull-pair/duplex')
const { event, tag, outcome } = require('./control')

const manifest = {
  hello: 'sync',
  whoami: 'sync',
  throws: 'sync',
  echo: 'async',
  args: 'async',
  kind: 'async',
  big: 'async',
  fail: 'async',
  failString: 'async',
  never: 'async',
  secret: 'sync',
  forbidden: 'sync',
  ghost: 'async',
  leak: 'async',
  ghostSource: 'source',
  ghostSink: 'sink',
  ghostDuplex: 'duplex',
  count: 'source',
  mixed: 'source',
  chunks: 'source',
  countThenFail: 'source',
  countThenWait: 'source',
  secretSource: 'source',
  eat: 'sink',
  eatSome: 'sink',
  secretSink: 'sink',
  upper: 'duplex',
  talk: 'duplex',
  duplexFail: 'duplex',
  secretDuplex: 'duplex',
  deep: { er: { add: 'async', count: 'source' } }
}

const secret = ['secret', 'secretSource', 'secretSink', 'secretDuplex']

const permissions = {
  anonymous: {
    allow: Object.keys(manifest).filter((name) => !secret.includes(name)),
    deny: ['forbidden']
  }
}

/** Bytes 0,1,2… of length n: the same on both sides, so nobody has to send it twice. */
function pattern (n) {
  const b = Buffer.alloc(n)
  for (let i = 0; i < n; i++) b[i] = i % 251
  return b
}

const kinds = {
  string: () => 'a string: é, 漢, 🎈',
  buffer: () => Buffer.from([0, 1, 2, 253, 254, 255]),
  null: () => null,
  undefined: () => undefined,
  true: () => true,
  false: () => false,
  zero: () => 0,
  number: () => -1.5,
  object: () => ({ a: [1, 'two', null], b: { c: true } }),
  array: () => [],
  nestedBuffer: () => ({ data: Buffer.from('hi') })
}

/** A source that gives n numbers and then waits until it is aborted. */
function countThenWait (n) {
  let i = 0
  return (abort, cb) => {
    if (abort) {
      event('aborted', { end: outcome(abort), sent: i })
      return cb(abort)
    }
    if (i < n) cb(null, i++)
  }
}

function count (n) {
  return n > 0 ? pull.count(n - 1) : pull.empty()
}

function fail (message) {
  return (abort, cb) => cb(abort || new Error(message))
}

function failDuplex (message) {
  return {
    source: fail(message),
    sink: (read) => read(new Error(message), () => {})
  }
}

function create () {
  return {
    hello (name) { return `Hello, ${name}` },
    whoami () { return this.id },
    throws (message) { throw new Error(message) },
    echo (value, cb) { cb(null, value) },
    args (...args) { args.pop()(null, args) },
    kind (name, cb) { cb(null, kinds[name]()) },
    big (n, cb) { cb(null, pattern(n)) },
    fail (message, cb) { cb(new Error(message)) },
    failString (message, cb) { cb(message) }, // eslint-disable-line
    never () { event('never called', null) },
    secret () { return 'the secret' },
    forbidden () { return 'forbidden' },
    count,
    mixed () {
      return pull.values([Buffer.from('bytes'), 'text', { json: true }, 7, null, false, [1]])
    },
    chunks (n, size) {
      return pull(count(n), pull.map(() => pattern(size)))
    },
    countThenFail (n, message) {
      let i = 0
      return (abort, cb) => {
        if (abort) return cb(abort)
        if (i < n) return cb(null, i++)
        cb(new Error(message))
      }
    },
    countThenWait,
    secretSource () { return pull.values([1]) },
    eat (name) {
      return pull.collect((err, items) => {
        event('eaten', { name, end: outcome(err), items: items.map(tag) })
      })
    },
    eatSome (n, message) {
      return (read) => {
        let got = 0
        read(null, function next (end) {
          if (end) return event('eaten some', { end: outcome(end), got })
          if (++got < n) return read(null, next)
          read(message ? new Error(message) : true, () => event('eaten some', { end: null, got }))
        })
      }
    },
    secretSink () { return pull.drain() },
    upper () {
      const [inner, outer] = pair()
      pull(inner, pull.map((v) => typeof v === 'string' ? v.toUpperCase() : v), inner)
      return outer
    },
    talk (n) {
      return {
        source: count(n),
        sink: pull.collect((err, items) => {
          event('heard', { end: outcome(err), items: items.map(tag) })
        })
      }
    },
    duplexFail: failDuplex,
    secretDuplex: () => failDuplex('never'),
    deep: {
      er: {
        add (a, b, cb) { cb(null, a + b) },
        count
      }
    }
  }
}

module.exports = {
  name: 'test',
  version: '1.0.0',
  manifest,
  permissions,
  pattern,
  create,
  init: () => create()
}
