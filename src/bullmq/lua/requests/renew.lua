-- Holds jobs for longer. ARGV: lock (ms), then id and token of each.
-- Returns the ids of those that are not held any more.
local lost = {}
for at = 2, #ARGV, 2 do
    local id, token = ARGV[at], ARGV[at + 1]
    local key = queue .. id .. ':lock'
    if redis.call('GET', key) == token then
        redis.call('SET', key, token, 'PX', ARGV[1])
        redis.call('SREM', queue .. 'stalled', id)
    else
        lost[#lost + 1] = id
    end
end
return lost
