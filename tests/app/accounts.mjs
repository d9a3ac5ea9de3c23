// The accounts in MongoDB, with mongoose: what a login writes, and what a scheduled post takes along of it.
import { SDKS, load } from './parts.mjs'

const { default: mongoose } = await load('mongoose')
const GUESSED_LIFE_MS = 12 * 3_600_000
const { ObjectId, Mixed } = mongoose.Schema.Types

const schema = new mongoose.Schema(
  {
    userId: { type: ObjectId, required: true },
    platform: {
      type: String,
      enum: ['bluesky', 'tiktok', 'ytShorts', 'instagram', 'linkedin', 'threads'],
      required: true,
    },
    platformAccountId: { type: String, required: true },
    platformUsername: String,
    displayName: String,
    profileImage: String,
    accessToken: { type: String, default: null },
    refreshToken: { type: String, default: null },
    tokenExpiry: { type: Date, default: null },
    scope: String,
    status: { type: String, default: 'active' },
    errorMessage: { type: String, default: null },
    metadata: { type: Mixed, default: {} },
    lastUsed: Date,
  },
  { timestamps: true, minimize: false, collection: 'socialaccounts' },
)
schema.index({ userId: 1, platform: 1, platformAccountId: 1 }, { unique: true })

export async function openAccounts({ uri, dbName, service, trouble }) {
  if (!uri) throw new Error('MONGODB_URI is not set')
  const SocialAccount = mongoose.model('SocialAccount', schema)
  SocialAccount.on('index', (error) => error && trouble('index')(error))
  mongoose.connection.on('error', trouble('mongodb'))
  await mongoose.connect(uri, { dbName })
  const { AtpAgent } = await load(SDKS['0.15.23'])

  return {
    /** A login, or the next one of a user: the session replaces whatever the document held. */
    async login({ handle, did, password, service: own = service, userId = new mongoose.Types.ObjectId() }) {
      const agent = new AtpAgent({ service: own })
      const { data } = await agent.login({ identifier: handle ?? did, password })
      const account = await SocialAccount.findOneAndUpdate(
        { userId, platform: 'bluesky', platformAccountId: data.did },
        {
          $set: {
            platformUsername: data.handle,
            displayName: data.handle,
            accessToken: data.accessJwt,
            refreshToken: data.refreshJwt,
            tokenExpiry: null,
            status: 'active',
            errorMessage: null,
            scope: 'atproto',
            lastUsed: new Date(),
          },
        },
        { upsert: true, returnDocument: 'after', setDefaultsOnInsert: true },
      )
      return { account: account.id, user: account.userId.toString(), did: data.did }
    },

    /** A post that somebody plans now, with the account as it stands now. */
    async planned({ accountId, at, delayMs = 0, text = 'a scheduled post', shape = 'originalData', queue = 'posts' }) {
      // Before anything is waited for: posts that are planned together are as far apart as their delays.
      const due = at === undefined ? Date.now() + delayMs : new Date(at).getTime()
      if (!Number.isFinite(due)) throw new Error(`not a time: ${at}`)
      const account = await SocialAccount.findById(accountId)
      if (!account) throw new Error(`no account ${accountId}`)
      return { due, queue, data: content(account.toJSON(), { due, text, shape }) }
    },

    /** What the application notes of a post, whatever the tokens are: a guess at their life, or that they failed. */
    mark: (accountId, error) =>
      SocialAccount.updateOne(
        { _id: accountId },
        error
          ? { status: 'error', errorMessage: `Token refresh failed: ${error.message}` }
          : { tokenExpiry: new Date(Date.now() + GUESSED_LIFE_MS), status: 'active', errorMessage: null },
      ),

    /** The account as it stands when its post is due. */
    fresh: (accountId) => SocialAccount.findById(accountId),

    close: () => mongoose.disconnect(),
  }
}

// What the worker is given: mostly things that are none of refreshd's business, and must stay as they are.
function content(document, { due, text, shape }) {
  const { _id, userId, platform, platformUsername, displayName, profileImage, platformAccountId } = document
  const known = { id: _id, platform, platformAccountId, platformUsername, displayName, profileImage: profileImage ?? null }
  const { accessToken, refreshToken, tokenExpiry } = document
  const accounts = {
    originalData: { ...known, originalData: document },
    direct: { ...known, accessToken, refreshToken, tokenExpiry },
  }
  if (!Object.hasOwn(accounts, shape)) throw new Error(`no such shape: ${shape}`)
  return {
    userId,
    postId: `${_id}-${due}`,
    scheduledTime: new Date(due).toISOString(),
    content: { text, media: [], hashtags: [], link: null, language: 'en', note: 'é ☃ \u2028 "quoted" \\ /' },
    platformSettings: { bluesky: { replyGate: null, labels: [], altTexts: {} }, quality: 0.1, views: 1e21 },
    account: accounts[shape],
    retries: 0,
  }
}
