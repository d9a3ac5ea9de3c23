-- Shared by the scripts that take jobs away from an instance.
local claims = prefix..'claims'

-- Puts one delivered entry back at its lane's end, under the same job id; a repair becomes a job of
-- the manual lane. The new entry comes first: a failure after it leaves the job twice, never lost.
local function put_back(lane, entry)
  local key, to = lanes[lane], math.max(lane, 1)
  local found = redis.call('XRANGE', key, entry, entry)[1]
  local back = 0
  if found then
    local fields = {}
    for f = 1, #found[2], 2 do fields[found[2][f]] = found[2][f + 1] end
    local id = fields.id or ''
    local account = string.match(id, '^%x+') or ''
    local held = redis.call('HGET', claims, account) or ''
    local start = lane..'|'..entry..'|'
    -- An entry that no claim names is one that somebody has replaced.
    if string.sub(held, 1, #start) == start then
      local new = redis.call('XADD', lanes[to], '*', 'id', id, 'j', fields.j or '')
      redis.call('HSET', claims, account, to..'|'..new..'|'..string.sub(held, #start + 1))
      back = 1
    end
  end
  redis.call('XDEL', key, entry)
  redis.call('XACK', key, 'workers', entry)
  return back
end

-- Up to `most` entries that are delivered to `consumer`, the oldest first.
local function pending(lane, consumer, most)
  local list = redis.pcall('XPENDING', lanes[lane], 'workers', '-', '+', most, consumer)
  return list.err and {} or list
end

-- Removes an instance that holds nothing; one that holds jobs would lose them with it.
local function retire(lane, consumer)
  if #pending(lane, consumer, 1) == 0 then
    redis.pcall('XGROUP', 'DELCONSUMER', lanes[lane], 'workers', consumer)
  end
end
