-- Makes a lease that has not lapsed last for its whole length again.
-- ARGV: its name, its length in ms.
local lapses = tonumber(redis.call('HGET', key, ARGV[1]) or 0)
if lapses <= now then
	return answer('lapsed')
end
redis.call('HSET', key, ARGV[1], now + tonumber(ARGV[2]))
return answer('ok')
