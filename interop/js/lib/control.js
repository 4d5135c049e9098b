'use strict'

// The control protocol: one JSON object a line. The test writes
// {"id":1,"op":"start","args":{…}} to stdin; the process answers
// {"id":1,"ok":…} or {"id":1,"err":{…}}, and tells of what happens by itself
// with {"event":"closed","data":{…}}. It ends when stdin does.

const readline = require('readline')

function write (line) {
  process.stdout.write(JSON.stringify(line) + '\n')
}

/** Values cross as {kind, …}, because JSON has neither buffers nor undefined. */
function tag (value) {
  if (value === undefined) return { kind: 'undefined' }
  if (Buffer.isBuffer(value)) return { kind: 'buffer', base64: value.toString('base64') }
  if (typeof value === 'string') return { kind: 'string', string: value }
  return { kind: 'json', json: value }
}

function untag (value) {
  switch (value.kind) {
    case 'undefined': return undefined
    case 'buffer': return Buffer.from(value.base64 || '', 'base64')
    case 'string': return value.string || ''
    default: return value.json
  }
}

/** How something ended: null (well), true (aborted or closed), or {message, name}. */
function outcome (err) {
  if (!err) return null
  if (err === true) return true
  if (typeof err !== 'object') return { message: String(err), name: typeof err }
  return { message: err.message, name: err.name, remote: !(err instanceof Error) }
}

function event (name, data) {
  write({ event: name, data })
}

/** Serves ops: {name: async (args) => result} until stdin ends. */
function serve (ops) {
  const lines = readline.createInterface({ input: process.stdin, crlfDelay: Infinity })
  lines.on('line', async (line) => {
    const { id, op, args } = JSON.parse(line)
    try {
      if (!ops[op]) throw new Error(`no operation ${op}`)
      const ok = await ops[op](args || {})
      write({ id, ok: ok === undefined ? null : ok })
    } catch (err) {
      write({ id, err: outcome(err) || { message: 'unknown' } })
    }
  })
  lines.on('close', () => process.exit(0))
  write({ event: 'ready', data: process.version })
}

process.on('uncaughtException', (err) => {
  event('crash', outcome(err))
  console.error(err)
  process.exitCode = 1
  setTimeout(() => process.exit(1), 50)
})

module.exports = { serve, event, tag, untag, outcome }
