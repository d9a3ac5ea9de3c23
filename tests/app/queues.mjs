// The application's BullMQ queues: scheduled posts, and requests for refreshes.

const POSTS = { attempts: 3, backoff: { type: 'exponential', delay: 1_000 }, removeOnComplete: true, removeOnFail: 1_000 }
const REFRESHES = 'token-refreshes'

export function openQueues({ bullmq, connection, prefix, trouble }) {
  const options = { connection: { ...connection, maxRetriesPerRequest: null }, prefix }
  const open = new Map()
  const once = (Kind, name, more) => {
    const key = `${Kind.name} ${name}`
    if (!open.has(key)) {
      const made = new Kind(name, { ...options, ...more })
      made.on('error', trouble(key))
      open.set(key, made)
    }
    return open.get(key)
  }
  const queue = (name) => once(bullmq.Queue, name)

  // The application takes the time for an id as it is; here, two requests in one millisecond are two.
  let last = 0
  const stamp = () => (last = Math.max(Date.now(), last + 1))

  return {
    ready: () => queue('posts').waitUntilReady(),

    /** Adds delayed jobs. The same account at the same millisecond is the same job to BullMQ, which ignores the second. */
    async schedule(posts) {
      const jobs = new Map()
      for (const { due, queue: name, data } of posts) {
        const account = data.account.id.toString()
        const opts = { ...POSTS, jobId: `post-${data.userId}-${account}-${due}`, delay: Math.max(0, due - Date.now()) }
        jobs.set(name, [...(jobs.get(name) ?? []), { name: 'process-post', data, opts }])
      }
      for (const [name, list] of jobs) await queue(name).addBulk(list)
      return posts.map(({ due, data }) => ({ job: `post-${data.userId}-${data.account.id}-${due}`, due }))
    },

    /** Serves a queue until the end, beside the workers that already do. */
    async work(name, concurrency, act) {
      const worker = new bullmq.Worker(name, act, { ...options, concurrency })
      worker.on('error', trouble(`Worker ${name}`))
      open.set(`Worker ${name} ${stamp()}`, worker)
      await worker.waitUntilReady()
    },

    /** What the admin route and the button do; with `wait`, what came of it. */
    async refresh({ accountId, all = false, platform = 'bluesky', wait = false, limitMs = 60_000 }) {
      if (all === (accountId !== undefined)) throw new Error('either accountId or all')
      const [name, data, jobId] = all
        ? ['refresh-all-tokens', { triggered: true }, `refresh-all-tokens-manual-${stamp()}`]
        : ['refresh-account-tokens', { accountId, platform }, `refresh-account-${accountId}-${stamp()}`]
      const events = wait && once(bullmq.QueueEvents, REFRESHES)
      if (events) await events.waitUntilReady()
      const job = await queue(REFRESHES).add(name, data, { ...POSTS, jobId })
      if (!wait) return { job: job.id }
      return job.waitUntilFinished(events, limitMs).then(
        (result) => ({ job: job.id, result }),
        (error) => ({ job: job.id, failed: error.message }),
      )
    },

    /** What the old application did at each start: one more schedule of 52 weeks. */
    async scheduleRefresh({ pattern = '0 0 * * 0', limit = 52 }) {
      const jobId = `refresh-all-tokens-${stamp()}`
      const opts = { ...POSTS, jobId, repeat: { pattern, limit } }
      const job = await queue(REFRESHES).add('refresh-all-tokens', { scheduled: true }, opts)
      return { job: job.id, schedule: jobId }
    },

    close: () => Promise.allSettled([...open.values()].map((it) => it.close())),
  }
}
