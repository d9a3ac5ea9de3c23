-- Gives a job other data, if it is there and its data is still what was read.
-- KEYS: the job's hash. ARGV: data as read, new data.
-- Returns 1 done / 0 its data is another by now / -1 it is gone, and stays gone.
local data = redis.call('HGET', KEYS[1], 'data')
if not data then return -1 end
if data ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'data', ARGV[2])
return 1
