// The packages, from the tools folder (scripts/setup app), apart from these files.
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import path from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'

const HERE = path.dirname(fileURLToPath(import.meta.url))
const TOOLS = process.env.REFRESHD_TOOLS ?? path.join(HERE, '..', '..', '.tools')
const FOLDER = path.join(TOOLS, 'app')
const from = createRequire(path.join(FOLDER, 'package.json'))

/** By what the caller says, the package of that version. */
export const BULLMQ = { 5: 'bullmq', newest: 'bullmq-newest' }
export const SDKS = { '0.15.23': '@atproto/api', newest: 'atproto-newest' }

export async function load(name) {
  try {
    const found = await import(pathToFileURL(from.resolve(name)).href)
    return found.default?.__esModule ? found.default : found
  } catch (error) {
    process.stderr.write(`app: cannot load ${name} (${error.code ?? error.message}); run scripts/setup app\n`)
    return process.exit(1)
  }
}

const version = (name) => {
  const file = path.join(FOLDER, 'node_modules', name, 'package.json')
  return JSON.parse(readFileSync(file, 'utf8')).version
}

/** What is installed, by package. */
export const versions = Object.fromEntries(
  [...Object.values(BULLMQ), ...Object.values(SDKS), 'mongoose'].map((name) => [name, version(name)]),
)
