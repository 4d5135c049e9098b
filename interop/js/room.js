'use strict'

// A room of the first generation: ssb-room's server plugin on secret-stack 6,
// with as much of a connection manager as it asks for.

const pull = require('pull-stream')
const Notify = require('pull-notify')
const SecretStack = require('secret-stack-6')
const { serve, event, outcome } = require('./lib/control')
const { ssbKeys } = require('./lib/seeds')

let api

/** Announces who left, so that the room forgets them. */
const conn = {
  name: 'conn',
  version: '1.0.0',
  manifest: {},
  init (api) {
    const notify = Notify()
    api.on('rpc:connect', (rpc) => {
      event('session', { id: rpc.id, address: rpc.stream.address })
      rpc.once('closed', () => {
        event('closed', { id: rpc.id })
        notify({ type: 'disconnected', key: rpc.id })
      })
    })
    return { connect () {}, hub: () => ({ listen: () => notify.listen() }) }
  }
}

serve({
  start: ({ name, cap, port, timers }) => new Promise((resolve) => {
    api = SecretStack({ caps: { shs: cap } })
      .use(conn)
      .use(require('ssb-room/tunnel/server'))({
        keys: ssbKeys(name),
        path: '/nonexistent',
        ...(timers ? { timers } : null),
        connections: {
          incoming: { net: [{ scope: 'device', transform: 'shs', host: '127.0.0.1', port }] },
          outgoing: {}
        }
      })
    api.once('multiserver:listening', () => resolve({ id: api.id, address: api.getAddress('device') }))
  }),
  endpoints: () => new Promise((resolve) => {
    pull(api.tunnel.endpoints(), pull.take(1), pull.collect((err, all) => resolve(err ? outcome(err) : all[0])))
  }),
  stop: () => new Promise((resolve) => api.close(true, () => resolve(null)))
})
