'use strict'
// The hub of Secrez, with as many tunnel sockets a courier as its first argument says. It says its address, and then how
// many bytes of memory it has whenever it is asked.

const fs = require('fs')
const readline = require('readline')

// The output is for what is asked; what packages have to say goes elsewhere.
const say = (text) => process.stdout.write(text + '\n')
console.log = console.info = console.error

const { startServer } = require('@secrez/hub')

function resident () {
  const found = /^RssAnon:\s*(\d+) kB$/m.exec(fs.readFileSync('/proc/self/status', 'utf8'))
  return Number(found[1]) * 1024
}

async function main () {
  const port = await startServer({ port: 0, address: '127.0.0.1', maxSockets: Number(process.argv[2]) })
  say('127.0.0.1:' + port)
  const lines = readline.createInterface({ input: process.stdin })
  lines.on('line', () => {
    for (let i = 0; i < 3; i++) global.gc()
    setTimeout(() => say(String(resident())), 500)
  })
  lines.on('close', () => process.exit(0))
}

main()
