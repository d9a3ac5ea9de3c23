// Posting from the job's copy of the tokens, and telling how it went.
import { SDKS, load } from './parts.mjs'

const agents = Object.fromEntries(
  await Promise.all(Object.entries(SDKS).map(async ([name, part]) => [name, (await load(part)).AtpAgent])),
)

const LAST = {
  record: (agent, text) => agent.post({ text, createdAt: new Date().toISOString() }),
  // For a server that keeps sessions and nothing else.
  getSession: (agent) => agent.com.atproto.server.getSession(),
}

// The copy, where the application looks for it.
function copyOf(account) {
  const held = account.originalData ?? account
  return { accessJwt: held.accessToken, refreshJwt: held.refreshToken }
}

// How long the copy's access token lives yet, in milliseconds.
function life(jwt) {
  try {
    return JSON.parse(Buffer.from(jwt.split('.')[1], 'base64url')).exp * 1_000 - Date.now()
  } catch {
    return null
  }
}

/** Answers what a worker does with a job. Each attempt is one event line. */
export function posting({ service, say, mark, fresh: read }) {
  return ({ sdk = '0.15.23', rotate = 'as-sdk', post: last = 'record', marks = false, reads = false }) => {
    if (!Object.hasOwn(agents, sdk)) throw new Error(`no such SDK: ${sdk}`)
    if (!Object.hasOwn(LAST, last)) throw new Error(`no such last call: ${last}`)
    if (!['as-sdk', 'and-forget'].includes(rotate)) throw new Error(`no such way to rotate: ${rotate}`)

    return async (job) => {
      const { account, content } = job.data
      const copy = copyOf(account)
      const line = {
        event: 'post',
        job: job.id,
        account: account.id,
        attempt: job.attemptsMade + 1,
        late_ms: Date.now() - job.timestamp - (job.opts.delay ?? 0),
        access_left_ms: life(copy.accessJwt),
        calls: [],
      }
      try {
        const fresh = reads && (await read(account.id))
        await send({ service, sdk, rotate, last, copy, fresh, account, text: content.text, calls: line.calls })
        if (marks) await mark(account.id)
        say({ ...line, ok: true })
      } catch (error) {
        if (marks) await mark(account.id, error)
        say({ ...line, ok: false, error: `${error.error ?? error.name}: ${error.message}` })
        throw error
      }
    }
  }
}

async function send({ service, sdk, rotate, last, copy, fresh, account, text, calls }) {
  // The calls and their statuses are told, the tokens are not.
  const heard = async (...request) => {
    const answer = await fetch(...request)
    const { pathname } = new URL(request[0].url ?? request[0])
    calls.push(`${pathname.split('.').at(-1)} ${answer.status}`)
    return answer
  }
  const agent = new agents[sdk]({ service, fetch: heard })
  if (fresh) {
    // The three lines of docs/postmore.md.
    if (!fresh.accessToken || fresh.status === 'inactive') throw new Error('the account is not connected')
    agent.sessionManager.session = { accessJwt: fresh.accessToken, refreshJwt: '', did: fresh.platformAccountId, handle: fresh.platformUsername, active: true }
  } else {
    await agent.resumeSession({ ...copy, did: account.platformAccountId, handle: account.platformUsername, active: true })
  }
  if (rotate === 'and-forget') await agent.sessionManager.refreshSession()
  await LAST[last](agent, text)
}
