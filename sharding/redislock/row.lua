-- What the other scripts begin with.
--
-- The state of a shop is one hash: its row, who has or wants the exclusive side,
-- and a field for every lease of the shared side. One key, so that an eviction
-- or a flush can't lose the leases and leave the row that says open.
local key = KEYS[1]
local time = redis.call('TIME')
local micros = time[1] * 1000000 + time[2]
local now = math.floor(micros / 1000)

local f = redis.call('HMGET', key, 'state', 'epoch', 'destination', 'token', 'fencing', 'mover', 'movertoken', 'moveruntil', 'rest', 'sweep')
local known = f[1]
local row = {state = f[1] or 'absent', epoch = tonumber(f[2] or 0), destination = tonumber(f[3] or 0), token = tonumber(f[4] or 0)}
local fencing = tonumber(f[5] or 0)
local mover, movertoken, moverleft = f[6], tonumber(f[7] or 0), tonumber(f[8] or 0) - now
local rest, sweep = tonumber(f[9] or 0) - now, tonumber(f[10] or 0)

-- left is in ms, of what is waited for; leases is how many are held.
local function answer(verdict, left, leases)
	return {verdict, row.state, row.epoch, row.destination, row.token, fencing, left or 0, leases or 0}
end

-- live removes the leases that have lapsed, and returns how many are left and
-- when the last of them lapses.
local function live()
	local all, leases, last = redis.call('HGETALL', key), 0, 0
	for i = 1, #all, 2 do
		if string.sub(all[i], 1, 2) == 'l:' then
			local left = tonumber(all[i + 1]) - now
			if left > 0 then
				leases, last = leases + 1, math.max(last, left)
			else
				redis.call('HDEL', key, all[i])
			end
		end
	end
	return leases, last
end
