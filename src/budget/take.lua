-- Takes one request from a server's budget: the generic cell rate algorithm (GCRA).
-- KEYS[1] the theoretical arrival time of the next request, in milliseconds of Redis's clock, and
--         how many requests were granted since the server was last left alone: "time:count"
-- KEYS[2] stands while the server is closed
-- ARGV    interval between requests, burst tolerance, longest wait: milliseconds, fractions allowed
-- Returns {granted 0|1, milliseconds to wait, requests granted}
local closed = redis.call('PTTL', KEYS[2])
if closed > 0 then
  return {0, closed, 0}
end
local time = redis.call('TIME')
local now = time[1] * 1000 + time[2] / 1000
local interval, tolerance, longest = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])

local tat, count = string.match(redis.call('GET', KEYS[1]) or '', '^([^:]*):?(%d*)$')
tat, count = tonumber(tat) or 0, tonumber(count) or 0
-- A time further away than a full queue of waits can put it was written under another clock.
if tat < now or tat > now + tolerance + longest + interval then
  tat = now
end
local wait = math.max(0, tat - tolerance - now)
if wait > longest then
  return {0, math.ceil(wait), count}
end
tat, count = tat + interval, count + 1
local life = math.ceil(tat - now) + 60000
redis.call('SET', KEYS[1], string.format('%.3f:%d', tat, count), 'PX', life)
return {1, math.ceil(wait), count}
