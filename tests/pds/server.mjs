// The reference Bluesky PDS with its PLC directory on loopback, and a small control API for tests and the demo.
// usage: node server.mjs --data DIR [--rate-limits]     (see README.md beside this file)
import { createHmac, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import http from 'node:http'
import { createRequire } from 'node:module'
import path from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { parseArgs } from 'node:util'

const HERE = path.dirname(fileURLToPath(import.meta.url))
const TOOLS = process.env.REFRESHD_TOOLS ?? path.join(HERE, '..', '..', '.tools')
const BYPASS_KEY = randomBytes(16).toString('hex')
const MAX_BODY_BYTES = 1 << 20
const MAX_ACCOUNTS = 1000
// Each account costs a scrypt hash and a directory write; more at once than this gains nothing.
const PARALLEL = 4

const { values: options } = parseArgs({
  options: { data: { type: 'string' }, 'rate-limits': { type: 'boolean', default: false } },
})
if (!options.data) fail('the data folder is missing: server.mjs --data DIR [--rate-limits]')

// The packages live in the tools folder (scripts/setup pds), apart from this file.
async function load(name) {
  const from = createRequire(path.join(TOOLS, 'pds', 'package.json'))
  try {
    return await import(pathToFileURL(from.resolve(name)).href)
  } catch (error) {
    return fail(`cannot load ${name} (${error.code ?? error.message}); run scripts/setup pds`)
  }
}

function fail(message) {
  process.stderr.write(`pds: ${message}\n`)
  process.exit(1)
}

// ---- start ----

// A second start on the same folder is the same server: same port, secrets and accounts.
async function readState(dir, crypto) {
  const file = path.join(dir, 'harness.json')
  if (existsSync(file)) return { file, ...JSON.parse(readFileSync(file, 'utf8')) }
  const recovery = await crypto.Secp256k1Keypair.create({ exportable: true })
  return {
    file,
    port: 0,
    jwtSecret: randomBytes(24).toString('hex'),
    adminPassword: randomBytes(12).toString('hex'),
    plcRotationKey: randomBytes(32).toString('hex'),
    recoveryDidKey: recovery.did(),
  }
}

async function bind(port) {
  const server = http.createServer()
  server.listen(port, '127.0.0.1')
  await once(server, 'listening')
  return server
}

// Both servers want to listen by themselves, on all interfaces and on a port known beforehand; they are handed
// a socket that is already bound to loopback instead, so that no port is ever raced for.
function listenOn(app, server, handler = app) {
  app.listen = () => {
    server.on('request', handler)
    setImmediate(() => server.emit('listening'))
    return server
  }
}

// ---- requests to the PDS ----

let pdsUrl = ''
const refreshes = {}

// Counts what the PDS answered to refreshSession, whoever asked.
function counted(app) {
  return (req, res) => {
    if (req.url.startsWith('/xrpc/com.atproto.server.refreshSession')) {
      res.on('finish', () => {
        refreshes[res.statusCode] = (refreshes[res.statusCode] ?? 0) + 1
      })
    }
    app(req, res)
  }
}

async function xrpc(nsid, { body, auth } = {}) {
  const method = nsid === 'com.atproto.server.getSession' ? 'GET' : 'POST'
  // The harness's own calls leave the rate limits to the client under test.
  const headers = { 'x-ratelimit-bypass': BYPASS_KEY }
  if (body) headers['content-type'] = 'application/json'
  if (auth) headers.authorization = auth
  const answer = await fetch(`${pdsUrl}/xrpc/${nsid}`, {
    method,
    headers,
    body: body && JSON.stringify(body),
  })
  const text = await answer.text()
  return { status: answer.status, body: text ? JSON.parse(text) : null }
}

// As xrpc, but only success will do.
async function call(nsid, request) {
  const answer = await xrpc(nsid, request)
  if (answer.status === 200) return answer.body ?? {}
  throw Object.assign(new Error(`${nsid}: ${JSON.stringify(answer.body)}`), { status: 502 })
}

const bearer = (jwt) => `Bearer ${jwt}`

async function createAccount(handle, password = randomBytes(9).toString('hex')) {
  const email = `${handle}@example.com`
  const made = await call('com.atproto.server.createAccount', { body: { handle, email, password } })
  const { did, accessJwt, refreshJwt } = made
  return { did, handle, accessJwt, refreshJwt, password }
}

async function createAccounts({ handle, password, count, prefix = 'user' }) {
  if (count === undefined) return createAccount(handle, password)
  if (!(count >= 1 && count <= MAX_ACCOUNTS)) throw badRequest(`count is not within 1 to ${MAX_ACCOUNTS}`)
  const made = new Array(count)
  let next = 0
  const lane = async () => {
    while (next < count) {
      const index = next++
      made[index] = await createAccount(`${prefix}${index}.test`, password)
    }
  }
  await Promise.all(Array.from({ length: PARALLEL }, lane))
  return made
}

function badRequest(message) {
  return Object.assign(new Error(message), { status: 400 })
}

// ---- tokens ----

const encode = (value) => Buffer.from(JSON.stringify(value)).toString('base64url')
const decode = (part) => JSON.parse(Buffer.from(part, 'base64url').toString())

// The secret is ours, so any token can be signed as the PDS would sign it.
function sign(header, claims, secret) {
  const content = `${encode(header)}.${encode(claims)}`
  return `${content}.${createHmac('sha256', secret).update(content).digest('base64url')}`
}

// The same token with other times: it ends `seconds` from now, which may be negative.
function resign(jwt, seconds, secret) {
  const [header, claims] = String(jwt).split('.').slice(0, 2).map(decode)
  const exp = Math.floor(Date.now() / 1000) + seconds
  return sign(header, { ...claims, iat: Math.min(claims.iat, exp - 1), exp }, secret)
}

function expiredRefresh(did, pds, secret) {
  const now = Math.floor(Date.now() / 1000)
  const claims = {
    scope: 'com.atproto.refresh',
    aud: pds.ctx.cfg.service.did,
    sub: did,
    jti: randomBytes(32).toString('base64'),
    iat: now - 7776060,
    exp: now - 60,
  }
  return sign({ typ: 'refresh+jwt', alg: 'HS256' }, claims, secret)
}

// ---- the control API ----

function routes(pds, state) {
  const admin = `Basic ${Buffer.from(`admin:${state.adminPassword}`).toString('base64')}`
  const rows = pds.ctx.accountManager.db.db
  const takedown = (did, applied) =>
    call('com.atproto.admin.updateSubjectStatus', {
      auth: admin,
      body: {
        subject: { $type: 'com.atproto.admin.defs#repoRef', did },
        takedown: applied ? { applied, ref: 'test' } : { applied },
      },
    })
  return {
    'POST /accounts': createAccounts,
    'POST /session': ({ did, handle, password }) =>
      call('com.atproto.server.createSession', { body: { identifier: did ?? handle, password } }),
    'POST /app-password': async ({ did, password }) => {
      const session = { identifier: did, password }
      const { accessJwt } = await call('com.atproto.server.createSession', { body: session })
      const body = { name: `app-${randomBytes(4).toString('hex')}` }
      const made = await call('com.atproto.server.createAppPassword', { auth: bearer(accessJwt), body })
      return { name: made.name, password: made.password }
    },
    'POST /revoke-app-password': async ({ did, name }) => {
      await pds.ctx.accountManager.revokeAppPassword(did, name)
      return {}
    },
    'POST /refresh': ({ refreshJwt }) =>
      xrpc('com.atproto.server.refreshSession', { auth: bearer(refreshJwt) }),
    'POST /get-session': ({ accessJwt }) =>
      xrpc('com.atproto.server.getSession', { auth: bearer(accessJwt) }),
    'POST /delete-session': ({ refreshJwt }) =>
      xrpc('com.atproto.server.deleteSession', { auth: bearer(refreshJwt) }),
    'POST /end-grace': async ({ did }) => {
      const past = new Date(Date.now() - 1000).toISOString()
      const spent = rows.updateTable('refresh_token').where('did', '=', did).where('nextId', 'is not', null)
      const result = await spent.set({ expiresAt: past }).executeTakeFirst()
      return { ended: Number(result.numUpdatedRows) }
    },
    'POST /expire': ({ did, refreshJwt }) => ({
      refreshJwt: refreshJwt
        ? resign(refreshJwt, -60, state.jwtSecret)
        : expiredRefresh(did, pds, state.jwtSecret),
    }),
    'POST /access-expiring': ({ accessJwt, seconds }) => ({
      accessJwt: resign(accessJwt, seconds, state.jwtSecret),
    }),
    'POST /tokens': ({ did }) =>
      rows.selectFrom('refresh_token').select(['id', 'expiresAt', 'nextId', 'appPasswordName'])
        .where('did', '=', did).execute(),
    'POST /takedown': ({ did }) => takedown(did, true),
    'POST /reinstate': ({ did }) => takedown(did, false),
    'POST /deactivate': ({ accessJwt }) =>
      call('com.atproto.server.deactivateAccount', { auth: bearer(accessJwt), body: {} }),
    'POST /activate': ({ accessJwt }) =>
      call('com.atproto.server.activateAccount', { auth: bearer(accessJwt) }),
    'POST /delete': ({ did }) =>
      call('com.atproto.admin.deleteAccount', { auth: admin, body: { did } }),
    'POST /spend': ({ count }) => spend(count),
    'GET /requests': () => ({ ...refreshes }),
  }
}

// Uses up the rate limit of loopback clients by real calls: the PDS's 3,000 in 5 minutes cannot be configured.
async function spend(count) {
  const statuses = {}
  let left = count
  const lane = async () => {
    while (left-- > 0) {
      const answer = await fetch(`${pdsUrl}/xrpc/com.atproto.server.describeServer`)
      await answer.arrayBuffer()
      statuses[answer.status] = (statuses[answer.status] ?? 0) + 1
    }
  }
  await Promise.all(Array.from({ length: 8 }, lane))
  return statuses
}

async function readBody(req) {
  const chunks = []
  let size = 0
  for await (const chunk of req) {
    size += chunk.length
    if (size > MAX_BODY_BYTES) throw badRequest('the body is too large')
    chunks.push(chunk)
  }
  if (size === 0) return {}
  try {
    return JSON.parse(Buffer.concat(chunks).toString())
  } catch {
    throw badRequest('the body is not JSON')
  }
}

function control(table) {
  return async (req, res) => {
    let status = 200
    let body
    try {
      const input = await readBody(req)
      const route = table[`${req.method} ${req.url}`]
      if (!route) throw Object.assign(new Error(`no such route: ${req.method} ${req.url}`), { status: 404 })
      body = await route(input)
    } catch (error) {
      status = error.status ?? 500
      body = { error: error.message }
    }
    res.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body ?? {}))
  }
}

// ---- the run ----

async function main() {
  const dir = path.resolve(options.data)
  mkdirSync(path.join(dir, 'blobs'), { recursive: true })
  const { PDS } = await load('@atproto/pds')
  const { PlcServer, Database } = (await load('@did-plc/server')).default
  const state = await readState(dir, await load('@atproto/crypto'))

  // The directory lives in memory: after a second start nobody's DID resolves, which refreshSession does not need.
  const plcSocket = await bind(0)
  const plcPort = plcSocket.address().port
  const plc = PlcServer.create({ db: Database.mock(), port: plcPort })
  listenOn(plc.app, plcSocket)
  await plc.start()

  const pdsSocket = await bind(state.port)
  const port = pdsSocket.address().port
  pdsUrl = `http://127.0.0.1:${port}`
  const pds = await PDS.fromEnv({
    devMode: true,
    port,
    didPlcUrl: `http://127.0.0.1:${plcPort}`,
    dataDirectory: dir,
    blobstoreDiskLocation: path.join(dir, 'blobs'),
    recoveryDidKey: state.recoveryDidKey,
    adminPassword: state.adminPassword,
    jwtSecret: state.jwtSecret,
    plcRotationKeyK256PrivateKeyHex: state.plcRotationKey,
    serviceHandleDomains: ['.test'],
    inviteRequired: false,
    disableSsrfProtection: true,
    rateLimitsEnabled: options['rate-limits'],
    rateLimitBypassKey: BYPASS_KEY,
    // Nobody listens there: the tests read no posts.
    bskyAppViewUrl: 'http://127.0.0.1:1',
    bskyAppViewDid: 'did:example:appview',
  })
  listenOn(pds.app, pdsSocket, counted(pds.app))
  await pds.start()
  const { file, ...kept } = state
  writeFileSync(file, JSON.stringify({ ...kept, port }), { mode: 0o600 })

  const controlSocket = await bind(0)
  controlSocket.on('request', control(routes(pds, state)))
  stopOnDemand(async () => {
    controlSocket.closeAllConnections()
    controlSocket.close()
    await pds.destroy()
    await plc.destroy()
  })
  const ready = {
    pds: `http://localhost:${port}`,
    control: `http://127.0.0.1:${controlSocket.address().port}`,
    adminPassword: state.adminPassword,
  }
  process.stdout.write(`${JSON.stringify(ready)}\n`)
}

// Ends on a signal, and when stdin closes: a killed parent never leaves the server behind.
function stopOnDemand(stop) {
  let stopping = false
  const end = () => {
    if (stopping) return
    stopping = true
    setTimeout(() => process.exit(1), 5000).unref()
    stop().then(() => process.exit(0), (error) => fail(`stopping failed: ${error.message}`))
  }
  process.on('SIGTERM', end)
  process.on('SIGINT', end)
  process.stdin.on('end', end).on('close', end).on('error', end).resume()
}

main().catch((error) => fail(error.stack))
