'use strict'

// The open muxrpc sessions of a process, numbered from 1 in order of appearance.

const { event, outcome } = require('./control')
const { call } = require('./calls')

module.exports = function Sessions () {
  const open = []

  function add (rpc, about) {
    open.push(rpc)
    const session = open.length
    const info = { session, id: rpc.id, address: rpc.stream && rpc.stream.address, ...about }
    rpc.once && rpc.once('closed', () => event('closed', { session }))
    event('session', info)
    return info
  }

  function get (session) {
    const rpc = open[session - 1]
    if (!rpc) throw new Error(`no session ${session}`)
    return rpc
  }

  return {
    add,
    get,
    find: (rpc) => open.indexOf(rpc) + 1,
    ops: {
      call: ({ session, ...options }) => call(get(session), options),
      closeSession: ({ session, hard }) => new Promise((resolve) => {
        const done = (err) => resolve({ end: outcome(err) })
        hard ? get(session).close(true, done) : get(session).close(done)
      }),
      isClosed: ({ session }) => Boolean(get(session).closed)
    }
  }
}
