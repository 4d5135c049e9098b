'use strict'

// A peer made of secret-stack 8 or, with {version: 6}, of 6.4.2: serves the
// plugin "test", connects to others, and calls them.

const { serve, outcome } = require('./lib/control')
const { seed, ssbKeys, fixRandom } = require('./lib/seeds')
const plugin = require('./lib/plugin')
const conn = require('./lib/conn')
const Sessions = require('./lib/sessions')

const sessions = Sessions()
let api

if (process.env.INTEROP_RANDOM) fixRandom(process.env.INTEROP_RANDOM)

/** The shipped plugins for ws, unix and noauth read 6.x configs; these are their 8.x twins. */
function transports8 (keys) {
  const publicKey = Buffer.from(keys.public, 'base64')
  return [
    { name: 'multiserver-ws', init: (api) => { transport(api, 'ws', require('multiserver/plugins/ws')) } },
    { name: 'multiserver-unix', init: (api) => { transport(api, 'unix', require('multiserver/plugins/unix-socket')) } },
    {
      name: 'multiserver-noauth',
      init: (api) => {
        const Noauth = require('multiserver/plugins/noauth')
        api.multiserver.transform({
          name: 'noauth',
          create: () => Noauth({ keys: { publicKey } }),
          identify: (remote) => ({ pubkey: remote.toString('base64') })
        })
      }
    }
  ]
}

function transports6 () {
  return [
    { name: 'multiserver-ws', init: (api) => { transport(api, 'ws', require('multiserver/plugins/ws')) } },
    { name: 'multiserver-unix', init: (api) => { transport(api, 'unix', require('multiserver/plugins/unix-socket')) } },
    require('ssb-no-auth')
  ]
}

function transport (api, name, Transport) {
  // Twins of one directory would share a socket: each entry keeps its own options.
  api.multiserver.transport({ name, create: (opts) => Transport({ ...opts }) })
}


/** An auth hook driven by the test: {"<id>": true | false | {allow, deny} | "error text"}. */
function authPlugin (answers) {
  return {
    init (api) {
      api.auth.hook(function (fn, args) {
        const [id, cb] = args
        if (!(id in answers)) return fn.apply(this, args)
        const answer = answers[id]
        if (typeof answer === 'string') return cb(new Error(answer))
        cb(null, answer)
      })
    }
  }
}

function build (options) {
  const { name, version = 8, cap, connections, timers, auth } = options
  const keys = ssbKeys(name)
  const shared = {
    connections,
    ...(timers ? { timers } : null),
    caps: { shs: cap }
  }
  const Stack = version === 6 ? require('secret-stack-6') : require('secret-stack')
  const stack = Stack({})
  const plugins = version === 6 ? transports6() : transports8(keys)
  plugins.forEach((p) => stack.use(p))
  if (auth) stack.use(authPlugin(auth))
  if (options.plugin !== false) stack.use(plugin)
  if (options.room) stack.use(conn.plugin).use(require('ssb-room-client'))
  return version === 6 ? stack({ ...shared, keys }) : stack({ global: { ...shared, keys } })
}

function start (options) {
  api = build(options)
  api.on('rpc:connect', (rpc, isClient) => {
    sessions.add(rpc, { isClient, shs: rpc.shs && rpc.shs.pubkey })
  })
  return new Promise((resolve) => {
    const answer = () => resolve({ id: api.id, seed: seed(options.name).toString('base64') })
    api.once('multiserver:listening', answer)
    // Without servers there is nothing to wait for.
    const incoming = options.connections && options.connections.incoming
    if (options.connections && !(incoming && Object.keys(incoming).length)) setTimeout(answer, 20)
  })
}

function connect ({ address }) {
  return new Promise((resolve, reject) => {
    api.connect(address, (err, rpc) => {
      if (err) return reject(err)
      resolve({ session: sessions.find(rpc), id: rpc.id, address: rpc.stream.address })
    })
  })
}

function stop ({ hard }) {
  return new Promise((resolve) => {
    const done = (err) => resolve({ end: outcome(err) })
    hard ? api.close(true, done) : api.close(done)
  })
}

serve({
  start,
  connect,
  stop,
  address: ({ scope }) => api.getAddress(scope),
  parse: ({ address }) => api.multiserver.parse(address),
  peers: () => Object.fromEntries(Object.entries(api.peers).map(([id, list]) => [id, list.length])),
  manifest: () => api.getManifest(),
  ...sessions.ops,
  ...conn.ops(() => api, sessions)
})
