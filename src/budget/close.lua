-- Closes a server's budget for a while, because the server said so; never shortens a closure.
-- KEYS[1] stands while the server is closed; ARGV[1] milliseconds from now
if tonumber(ARGV[1]) > redis.call('PTTL', KEYS[1]) then
  redis.call('SET', KEYS[1], '1', 'PX', ARGV[1])
end
return 1
