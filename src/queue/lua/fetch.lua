-- Takes jobs, lane by lane in order of precedence; creates what a wipe has removed. It never
-- fails once it has taken something, for what is taken must reach the reader.
-- KEYS: prefix. ARGV: instance, its sign of life, free slots, those of them that the lower lanes may take.
-- Returns two lists: (lane, entry, job id, payload) per job, and, if slots stay free, the last
-- id of each lane and of the nudges: what comes after them has not been seen.
local me, sign = ARGV[1], ARGV[2]
local free, low = tonumber(ARGV[3]), tonumber(ARGV[4])

local function read(key, most)
  return redis.pcall('XREADGROUP', 'GROUP', 'workers', me, 'COUNT', most, 'STREAMS', key, '>')
end

local jobs, failed = {}, nil
for lane, key in ipairs(lanes) do
  local most = lane == 1 and free or math.min(free, low)
  local got = most > 0 and read(key, most)
  if got and got.err then
    -- NOGROUP: the first use, or a wipe.
    redis.pcall('XGROUP', 'CREATE', key, 'workers', '0', 'MKSTREAM')
    got = read(key, most)
    if got and got.err then failed = got end
  end
  for _, entry in ipairs(got and got[1] and got[1][2] or {}) do
    local fields = {}
    for f = 1, #entry[2], 2 do fields[entry[2][f]] = entry[2][f + 1] end
    local n = #jobs
    jobs[n + 1], jobs[n + 2] = lane, entry[1]
    jobs[n + 3], jobs[n + 4] = fields.id or '', fields.j or ''
    free = free - 1
    if lane > 1 then low = low - 1 end
  end
end
if failed and #jobs == 0 then return failed end

-- Whoever has jobs is alive, also when the key has just been wiped.
if #jobs > 0 then redis.pcall('SET', prefix..'alive:'..me, sign, 'PX', 10000, 'NX') end

local function last(key)
  if redis.call('EXISTS', key) == 0 then return '0-0' end
  local info = redis.call('XINFO', 'STREAM', key)
  for f = 1, #info, 2 do
    if info[f] == 'last-generated-id' then return info[f + 1] end
  end
  return '0-0'
end

local seen = {}
if free > 0 then
  for lane, key in ipairs(lanes) do seen[lane] = last(key) end
  seen[5] = last(prefix..'nudge')
end
return {jobs, seen}
