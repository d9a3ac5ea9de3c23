// A small posting application, as the one that refreshd serves: it logs accounts in, schedules posts with BullMQ, and
// posts from the copy of the tokens that the job carries. Nothing that it rotates is written back.
// usage: node app.mjs --bullmq 5|newest     (settings from the environment; see README.md beside this file)
import readline from 'node:readline'
import { parseArgs } from 'node:util'

import { BULLMQ, load, versions } from './parts.mjs'
import { openAccounts } from './accounts.mjs'
import { openQueues } from './queues.mjs'
import { posting } from './posting.mjs'

const CLOSING_MS = 3_000

const { values: given } = parseArgs({ options: { bullmq: { type: 'string', default: '5' } } })
if (!(given.bullmq in BULLMQ)) fail(`--bullmq takes ${Object.keys(BULLMQ).join(' or ')}`)

const env = process.env
const service = env.BLUESKY_SERVICE_URL ?? 'https://bsky.social'
const connection = env.REDIS_URL
  ? { url: env.REDIS_URL }
  : { host: env.REDIS_HOST ?? 'localhost', port: Number(env.REDIS_PORT ?? 6379), password: env.REDIS_PASSWORD }

function fail(message) {
  process.stderr.write(`app: ${message}\n`)
  process.exit(1)
}

const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`)
// What goes wrong beside a command, such as a lost connection.
const trouble = (where) => (error) => say({ event: 'trouble', where, error: String(error?.message ?? error) })

const accounts = await openAccounts({ uri: env.MONGODB_URI, dbName: env.MONGO_DB, service, trouble }).catch((error) =>
  fail(error.message),
)
const bullmq = await load(BULLMQ[given.bullmq])
const queues = openQueues({ bullmq, connection, prefix: env.BULLMQ_PREFIX ?? 'bull', trouble })
const post = posting({ service, say, mark: accounts.mark, fresh: accounts.fresh })

const commands = {
  login: accounts.login,
  async schedule({ posts, ...one }) {
    const answers = await queues.schedule(await Promise.all((posts ?? [one]).map(accounts.planned)))
    return posts ? { jobs: answers } : answers[0]
  },
  async work({ queue = 'posts', concurrency = 1, ...how }) {
    await queues.work(queue, concurrency, post(how))
    return {}
  },
  refresh: queues.refresh,
  'schedule-refresh': queues.scheduleRefresh,
  // The old system's worker, which says yes to everything.
  async serve({ queue = 'token-refreshes', concurrency = 1 }) {
    await queues.work(queue, concurrency, async (job) => {
      say({ event: 'served', queue, job: job.id, name: job.name, data: job.data })
      return { success: true, message: 'served by the old worker' }
    })
    return {}
  },
  versions: () => ({ bullmq: versions[BULLMQ[given.bullmq]], node: process.version, packages: versions }),
  quit: () => {
    end()
    return {}
  },
}

async function obey(line) {
  let id = null
  try {
    const { do: name, ...command } = JSON.parse(line)
    id = command.id ?? null
    if (!Object.hasOwn(commands, name)) throw new Error(`no such command: ${name}`)
    say({ id, ok: true, ...(await commands[name](command)) })
  } catch (error) {
    say({ id, ok: false, error: error.message })
  }
}

let ending = false
function end() {
  if (ending) return
  ending = true
  // What does not close in time is cut off: a test that is over waits for nothing.
  setTimeout(() => process.exit(0), CLOSING_MS).unref()
  Promise.allSettled([queues.close(), accounts.close()]).then(() => process.exit(0))
}
process.on('SIGTERM', end)
process.on('SIGINT', end)

const lines = readline.createInterface({ input: process.stdin })
lines.on('line', obey)
lines.on('close', end)
await queues.ready()
say({ event: 'ready', bullmq: versions[BULLMQ[given.bullmq]] })
