'use strict'

// A courier of Secrez behind its tunnel, as far as a hub can tell: it registers
// and opens sockets as the tunnel client 0.1.7 does, which npm does not have,
// with that client's weaknesses. It
//
//   - repeats a registration that failed, in the same bytes, until its time is up;
//   - opens as many sockets as it is told, and dials its server as soon as one is open;
//   - frames nothing, and replaces a socket that the hub closes at once;
//   - dials a server that refuses again after a while, and loses a socket over any other local error;
//   - gives up for good when the hub refuses a socket.

const http = require('http')
const net = require('net')
const { Account } = require('./lib/account')
const { serve, event } = require('./lib/control')

const retryAfter = 100 // ms; a second in the original

let tunnel, origin

class Tunnel {
  constructor (hub, localPort) {
    this.hub = hub
    this.localPort = localPort
    this.sockets = new Set()
    this.closed = false
    this.opened = 0
    this.attempts = 0
  }

  /** Registers, again and again for so many ms, and opens the sockets. Resolves with nothing when time is up. */
  async start (query, timeout) {
    const until = Date.now() + timeout
    while (!this.info && Date.now() < until) {
      this.attempts++
      try {
        const { status, body } = await get(this.hub + '/api/v1/tunnel/new?' + query)
        if (status === 200) this.info = JSON.parse(body)
        else event('refused', { status, body })
      } catch (err) {
        event('failed', err.message)
      }
      if (!this.info) await new Promise(resolve => setTimeout(resolve, retryAfter))
    }
    if (!this.info) return
    for (let i = 0; i < (this.info.max_conn_count || 1); i++) this.open()
  }

  open () {
    const remote = net.connect({ host: this.info.ip || new URL(this.hub).hostname, port: this.info.port })
    remote.setKeepAlive(true)
    this.sockets.add(remote)
    let lost = false
    remote.on('error', (err) => {
      if (err.code !== 'ECONNREFUSED') return
      lost = true
      if (!this.closed) event('closed', err.code)
      this.close()
    })
    remote.once('connect', () => {
      this.opened++
      event('opened', this.opened)
      this.dialLocal(remote, () => { lost = true })
    })
    remote.once('close', () => {
      this.sockets.delete(remote)
      if (!this.closed && !lost) this.open()
    })
  }

  dialLocal (remote, lose) {
    if (remote.destroyed) return
    const local = net.connect({ host: 'localhost', port: this.localPort })
    remote.once('close', () => local.end())
    local.once('error', (err) => {
      local.end()
      if (err.code === 'ECONNREFUSED') return setTimeout(() => this.dialLocal(remote, lose), retryAfter)
      lose()
      remote.end()
    })
    local.once('connect', () => remote.pipe(local).pipe(remote))
  }

  close () {
    this.closed = true
    for (const socket of this.sockets) socket.destroy()
  }
}

/** A request as the client's own library makes it. */
function get (url) {
  return new Promise((resolve, reject) => {
    const headers = { 'Accept-Encoding': 'gzip, deflate', Accept: 'application/json', Connection: 'close' }
    http.get(url, { headers }, (res) => {
      let body = ''
      res.setEncoding('utf8')
      res.on('data', chunk => { body += chunk })
      res.on('end', () => resolve({ status: res.statusCode, body }))
      res.on('error', reject)
    }).on('error', reject)
  })
}

function query ({ payload, signature }, reset) {
  const text = `payload=${encodeURIComponent(payload)}&signature=${encodeURIComponent(signature)}`
  return reset === undefined ? text : text + '&reset=' + encodeURIComponent(reset)
}

/** The courier's own server: takes signed messages, and says so. */
function serveMessages (req, res) {
  let text = ''
  req.setEncoding('utf8')
  req.on('data', chunk => { text += chunk })
  req.on('end', () => {
    let success = false
    try { success = Account.verify(JSON.parse(text)) } catch (err) { /* not a message */ }
    res.writeHead(success ? 200 : 400, { 'Content-Type': 'application/json; charset=utf-8' })
    res.end(JSON.stringify({ success, method: req.method, url: req.url, host: req.headers.host }))
  })
}

serve({
  publicKey: ({ name }) => new Account(name).publicKey,
  sign: ({ name, body }) => new Account(name).payload(body),

  start: async ({ hub, name, body, reset, timeout }) => {
    if (!origin) {
      origin = http.createServer(serveMessages)
      await new Promise(resolve => origin.listen(0, 'localhost', resolve))
    }
    if (tunnel) tunnel.close()
    tunnel = new Tunnel(hub, origin.address().port)
    await tunnel.start(query(new Account(name).payload(body), reset), timeout)
    return { info: tunnel.info || null, attempts: tunnel.attempts }
  },
  stop: () => tunnel.close()
})
