// The worker that refreshd is measured against: BullMQ, mongoose, undici and pino, as one would write it with care today.
// usage: node worker.mjs --mongo URI --redis PORT --pds URL --concurrency N --log FILE    (scripts/bench starts it)
// Says `ready`; on the line `go`, puts every account into the queue; says `done STORED FAILED` when all were worked on.
// Ends when its stdin does.
import { createRequire } from 'node:module'
import path from 'node:path'
import readline from 'node:readline'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { parseArgs } from 'node:util'

const HERE = path.dirname(fileURLToPath(import.meta.url))
const TOOLS = process.env.REFRESHD_TOOLS ?? path.join(HERE, '..', '..', '.tools')
// The packages live in the tools folder (scripts/setup peer), apart from this file.
const from = createRequire(path.join(TOOLS, 'peer', 'package.json'))
const load = (name) => import(pathToFileURL(from.resolve(name)).href)
const [{ Queue, Worker }, { default: mongoose }, { Pool }, { default: pino }] = await Promise.all(
  ['bullmq', 'mongoose', 'undici', 'pino'].map(load),
)

const QUEUE = 'token-refreshes'
const BULK = 1_000
const OURS = ['active', 'error', 'expired', 'revoked']
const REFRESH = '/xrpc/com.atproto.server.refreshSession'

const { values: given } = parseArgs({
  options: Object.fromEntries(
    ['mongo', 'redis', 'pds', 'concurrency', 'log'].map((name) => [name, { type: 'string' }]),
  ),
})
const concurrency = Number(given.concurrency)
const connection = { host: '127.0.0.1', port: Number(given.redis), maxRetriesPerRequest: null }
const log = pino(pino.destination({ dest: given.log, sync: false, minLength: 4_096 }))
const pds = new Pool(given.pds, { connections: concurrency, pipelining: 1 })

const Account = mongoose.model(
  'SocialAccount',
  new mongoose.Schema(
    {
      platform: String,
      platformAccountId: String,
      platformUsername: String,
      accessToken: String,
      refreshToken: String,
      tokenExpiry: Date,
      status: String,
      errorMessage: String,
      tokenRefresh: mongoose.Schema.Types.Mixed,
    },
    { timestamps: true, autoIndex: false, collection: 'socialaccounts' },
  ),
)
await mongoose.connect(given.mongo, { dbName: 'app', writeConcern: { w: 'majority' } })

// ---- one account ----

const claims = (jwt) => JSON.parse(Buffer.from(jwt.split('.')[1], 'base64url').toString())
const moment = (seconds) => new Date(seconds * 1_000)

async function refresh(job) {
  const begun = performance.now()
  const account = await Account.findOne(
    { _id: job.data.accountId, platform: 'bluesky' },
    { platformAccountId: 1, platformUsername: 1, refreshToken: 1, status: 1 },
  ).lean()
  const session = await call(account)
  if (session.did !== account.platformAccountId) throw new Error('identity_mismatch')
  const expiresAt = moment(claims(session.accessJwt).exp)
  const stored = await store(account, session, expiresAt)
  log.info(
    {
      event: 'refresh', account: job.data.accountId, did: session.did, handle: session.handle, trigger: job.data.trigger,
      outcome: stored ? 'refreshed' : 'superseded', service: given.pds, attempt: job.attemptsMade + 1,
      duration_ms: Math.round(performance.now() - begun), expires_at: expiresAt, job: job.id,
    },
    'refreshed',
  )
  if (!stored) throw new Error('superseded')
}

async function call(account) {
  const headers = { authorization: `Bearer ${account.refreshToken}` }
  const answer = await pds.request({ method: 'POST', path: REFRESH, headers })
  if (answer.statusCode !== 200) throw new Error(`${answer.statusCode} ${await answer.body.text()}`)
  return answer.body.json()
}

// By compare-and-set, with the fields that refreshd writes.
async function store(account, session, expiresAt) {
  const now = new Date()
  const { jti, exp } = claims(session.refreshJwt)
  const written = await Account.updateOne(
    { _id: account._id, platform: 'bluesky', refreshToken: account.refreshToken, status: { $in: OURS } },
    {
      $set: {
        accessToken: session.accessJwt,
        refreshToken: session.refreshJwt,
        tokenExpiry: expiresAt,
        platformUsername: session.handle,
        status: 'active',
        errorMessage: null,
        'tokenRefresh.attemptedAt': now,
        'tokenRefresh.outcome': 'refreshed',
        'tokenRefresh.failures': 0,
        'tokenRefresh.nextAttemptAt': null,
        'tokenRefresh.judgedJti': jti,
        'tokenRefresh.heardAt': null,
        'tokenRefresh.heardAtServer': null,
        'tokenRefresh.lastError': null,
        'tokenRefresh.service': given.pds,
        'tokenRefresh.refreshedAt': now,
        'tokenRefresh.refreshExpiresAt': moment(exp),
        'tokenRefresh.accountStatus': null,
      },
    },
  )
  return written.matchedCount === 1
}

// ---- all accounts ----

const queue = new Queue(QUEUE, { connection })
const worker = new Worker(QUEUE, refresh, { connection, concurrency })
worker.on('error', (error) => log.error(error))
await Promise.all([queue.waitUntilReady(), worker.waitUntilReady()])

async function enqueueAll() {
  const opts = { removeOnComplete: true, removeOnFail: 1_000 }
  let jobs = []
  let count = 0
  const add = async () => {
    await queue.addBulk(jobs)
    count += jobs.length
    jobs = []
  }
  for await (const { _id } of Account.find({ platform: 'bluesky' }, { _id: 1 }).lean().cursor({ batchSize: BULK })) {
    const accountId = _id.toString()
    jobs.push({ name: 'refresh', data: { accountId, trigger: 'manual' }, opts: { ...opts, jobId: `refresh-${accountId}` } })
    if (jobs.length === BULK) await add()
  }
  if (jobs.length > 0) await add()
  return count
}

async function refreshAll() {
  let [stored, failed, wanted] = [0, 0, Infinity]
  const ended = new Promise((resolve) => {
    const check = () => stored + failed >= wanted && resolve()
    worker.on('completed', () => { stored += 1; check() })
    worker.on('failed', (job, error) => { failed += 1; log.warn({ job: job?.id, error: error.message }, 'failed'); check() })
    enqueueAll().then((count) => { wanted = count; check() })
  })
  await ended
  worker.removeAllListeners('completed')
  worker.removeAllListeners('failed')
  process.stdout.write(`done ${stored} ${failed}\n`)
}

process.stdout.write('ready\n')
for await (const line of readline.createInterface({ input: process.stdin })) {
  if (line === 'go') await refreshAll()
}
process.exit(0)
