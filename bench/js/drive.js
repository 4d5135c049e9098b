'use strict'
// One measuring process: it says when it is ready, then answers each line
// {"seconds":1} on its input with a line {"rate":123} on its output.

const readline = require('readline')

const say = (object) => process.stdout.write(JSON.stringify(object) + '\n')

module.exports = function drive (measure) {
  const lines = readline.createInterface({ input: process.stdin })
  lines.on('line', async (line) => {
    try {
      say({ rate: await measure(JSON.parse(line).seconds) })
    } catch (err) {
      say({ error: String((err && err.message) || err) })
    }
  })
  lines.on('close', () => process.exit(0))
  say({ ready: true, crypto: cryptoName() })
}

// cryptoName tells which implementation chloride has loaded.
function cryptoName () {
  const native = Object.keys(require.cache).find((file) => /sodium-native[\\/]index\.js$/.test(file))
  if (!native) return 'JavaScript'
  return 'sodium-native ' + require('sodium-native/package.json').version
}

module.exports.now = () => Number(process.hrtime.bigint()) / 1e9
module.exports.tick = () => new Promise((resolve) => setImmediate(resolve))
module.exports.sleep = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000))
