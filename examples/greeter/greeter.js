// Calls the greeter from JavaScript: npm install secret-stack@8, then
//   go run ./examples/greeter -serve      (prints ADDRESS)
//   node examples/greeter/greeter.js ADDRESS
const crypto = require('crypto')
const SecretStack = require('secret-stack')

const plugin = {
  name: 'greeter',
  version: '1.0.0',
  manifest: { hello: 'async' },
  init: () => ({ hello: (name, cb) => cb(null, 'hello ' + name) })
}

const peer = SecretStack({
  global: {
    appKey: '1KHLiKZvAvjbY1ziZEHMXawbCEIM6qwjCDm3VYRan/s=',
    seed: crypto.randomBytes(32)
  }
}).use(plugin)()

peer.connect(process.argv[2], (err, rpc) => {
  if (err) throw err
  rpc.greeter.hello('javascript', (err, answer) => {
    if (err) throw err
    console.log(answer)
    rpc.close(true, () => process.exit(0))
  })
})
