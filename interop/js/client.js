'use strict'

// ssb-client: a short-lived connection that learns the manifest from the peer.

const ssbClient = require('ssb-client')
const { serve } = require('./lib/control')
const { ssbKeys } = require('./lib/seeds')
const Sessions = require('./lib/sessions')

const sessions = Sessions()

serve({
  connect: ({ name, cap, remote, manifest }) => new Promise((resolve, reject) => {
    const config = { caps: { shs: cap }, path: '/nonexistent' }
    ssbClient(ssbKeys(name), { ...config, remote, manifest }, (err, rpc) => {
      if (err) return reject(err)
      resolve({ ...sessions.add(rpc, {}), methods: Object.keys(rpc), hasTest: Boolean(rpc.test) })
    })
  }),
  ...sessions.ops
})
