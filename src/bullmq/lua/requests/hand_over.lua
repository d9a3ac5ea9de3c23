-- Moves a job to another queue, unchanged. KEYS[2]: that queue. ARGV: id, token.
-- Returns 0, or as `let_go`; -4: there is a job of that name already, and nothing was done.
local id, token, other = ARGV[1], ARGV[2], KEYS[2]
local answer = held(id, token)
if answer < 0 then return answer end
if redis.call('EXISTS', other .. id) == 1 then return -4 end
answer = let_go(id, token)
if answer < 0 then return answer end
forget_likeness(id)
redis.call('RENAME', queue .. id, other .. id)
if redis.call('EXISTS', queue .. id .. ':logs') == 1 then
    redis.call('RENAME', queue .. id .. ':logs', other .. id .. ':logs')
end
tell('event', 'removed', 'jobId', id, 'prev', 'active')
arrive(other, id)
return 0
