'use strict'

// As much of the interface of a connection manager as ssb-room-client needs:
// it announces each connection, so that the room client can look whether a
// room is at its other end, and keeps what the room client stages.

const pull = require('pull-stream')
const Notify = require('pull-notify')
const { event } = require('./control')

const plugin = {
  name: 'conn',
  version: '1.0.0',
  manifest: {},
  init (api) {
    const notify = Notify()
    const db = new Map()
    const live = new Map()

    function update (address, data) {
      db.set(address, { ...db.get(address), ...data })
      event('room', { address, ...data })
    }

    function connect (address, data, cb) {
      if (typeof data === 'function') cb = data
      const known = live.get(address)
      if (known && !known.closed) return cb(null, known)
      api.connect(address, (err, rpc) => {
        if (err) return cb(err)
        live.set(address, rpc)
        rpc.once('closed', () => {
          live.delete(address)
          notify({ type: 'disconnected', address, key: rpc.id })
        })
        notify({ type: 'connected', address, key: rpc.id, details: { rpc } })
        cb(null, rpc)
      })
    }

    return {
      connect,
      disconnect (address, cb) {
        const rpc = live.get(address)
        if (rpc) rpc.close(true, () => {})
        if (cb) cb()
      },
      hub: () => ({
        listen: () => notify.listen(),
        update,
        entries: () => [...live.keys()].map((address) => [address, {}])
      }),
      db: () => ({
        entries: () => db.entries(),
        get: (address) => db.get(address),
        update,
        getAddressForId: () => undefined
      }),
      staging: () => ({ entries: () => [] }),
      stage () {},
      unstage (address) { event('unstaged', { address }) },
      remember () {}
    }
  }
}

/** What a test can ask of a peer that has the room client. */
function ops (getApi, sessions) {
  return {
    // Joins a room and tells of each attendant discovered there.
    join: ({ address }) => new Promise((resolve, reject) => {
      const api = getApi()
      pull(api.roomClient.discoveredAttendants(), pull.drain((a) => event('attendant', a), () => {}))
      api.conn.connect(address, (err, rpc) => {
        if (err) return reject(err)
        resolve({ session: sessions.find(rpc), id: rpc.id })
      })
    }),
    // Reaches a peer through a room joined before.
    tunnel: ({ address }) => new Promise((resolve, reject) => {
      getApi().conn.connect(address, (err, rpc) => {
        if (err) return reject(err)
        resolve({ session: sessions.find(rpc), id: rpc.id })
      })
    }),
    roomsJoined: () => [...getApi().tunnel.getRoomsMap().keys()]
  }
}

module.exports = { plugin, ops }
