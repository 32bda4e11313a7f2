-- Takes a lease of the shared side.
-- ARGV: its name, its length in ms, then pairs of a state and its number (the
-- epoch of an open row, else the token), of which the row must match one.
local name, length = ARGV[1], tonumber(ARGV[2])
local number = row.state == 'open' and row.epoch or row.token
local matches = false
for i = 3, #ARGV, 2 do
	matches = matches or known and row.state == ARGV[i] and number == tonumber(ARGV[i + 1])
end
if not matches then
	return answer('refused')
end
-- No new lease passes a waiting mover. One that is there is our own, of a try
-- whose answer was lost: the mover waits for it.
if moverleft > 0 and redis.call('HEXISTS', key, name) == 0 then
	return answer('wait', moverleft)
end
-- Leases of the dead go when a mover looks; where none comes, here.
if now >= sweep then
	live()
	redis.call('HSET', key, 'sweep', now + length)
end
redis.call('HSET', key, name, now + length)
return answer('ok')
