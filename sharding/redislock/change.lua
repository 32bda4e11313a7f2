-- Changes the row.
-- ARGV: what to do, a name for who does it, token, epoch, destination, a length
-- in ms.
local op, name, token, epoch, destination, length = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])

local function write(state, epoch, destination, token)
	redis.call('HSET', key, 'state', state, 'epoch', epoch, 'destination', destination, 'token', token)
	redis.call('HDEL', key, 'mover', 'movertoken', 'moveruntil')
	row = {state = state, epoch = epoch, destination = destination, token = token}
	return answer('ok')
end

-- raise makes the next fencing token. The clock is a lower bound, so that tokens
-- go on growing after a flush.
local function raise()
	fencing = math.max(fencing + 1, micros)
	redis.call('HSET', key, 'fencing', fencing)
end

-- exclusive asks for the exclusive side for length. It returns nothing to the
-- one who has it, and what to answer to others. Asking makes new leases wait.
local function exclusive()
	local others = moverleft > 0 and mover ~= name
	if others and movertoken > token then
		return answer('token')
	end
	if others and movertoken == token then
		return answer('wait', moverleft)
	end
	if moverleft <= 0 or others then
		if rest > 0 then
			return answer('wait', rest)
		end
		redis.call('HSET', key, 'mover', name, 'movertoken', token, 'moveruntil', now + length)
	end
	local leases, last = live()
	if leases > 0 then
		return answer('wait', last, leases)
	end
	raise()
end

-- lost returns nothing to the one who still has the exclusive side, and what to
-- answer to others.
local function lost()
	if mover ~= name then
		return answer('token')
	end
	if moverleft <= 0 then
		return answer('lapsed')
	end
end

if op == 'read' then
	return answer('ok')
end

if op == 'create' then
	if known then
		return answer((row.state == 'open' and row.epoch == epoch) and 'ok' or 'notopen')
	end
	-- If the state was lost, then so were leases that are still relied on.
	redis.call('HSET', key, 'rest', now + length)
	raise()
	return write('open', epoch, 0, 0)
end

if op == 'incoming' then
	if row.state == 'incoming' and row.token == token then
		return answer('ok')
	end
	if row.state == 'open' or row.token >= token then
		return answer('token')
	end
	return exclusive() or write('incoming', 0, 0, token)
end

if op == 'open' then
	if row.state == 'open' and row.epoch == epoch then
		return answer('ok')
	end
	if row.state ~= 'incoming' or row.token ~= token then
		return answer('token')
	end
	return exclusive() or write('open', epoch, 0, token)
end

if op == 'entomb' then
	if row.token > token or row.state == 'open' or row.state == 'moved' and row.token == token then
		return answer('ok')
	end
	if row.state == 'absent' and row.token == token then
		return answer('ok')
	end
	return exclusive() or write('absent', 0, 0, token)
end

-- Where the row is open, writers needn't be waited for. But a mover that is about
-- to close it loses the exclusive side, and movers before ours are refused from
-- now on.
if op == 'reopen' then
	local here = known and row.epoch == epoch and (row.state == 'moved' or row.state == 'open') and row.token <= token
	if not here or moverleft > 0 and movertoken > token then
		return answer('ok')
	end
	-- In one step, a request that the network delivers late, when its sender has
	-- repeated it and closed the shop again since, would open it in two pods.
	if row.state == 'moved' then
		return exclusive() or answer('claimed')
	end
	return write('open', epoch, 0, math.max(row.token, token - 1))
end

if op == 'reopened' then
	if row.state == 'open' and row.epoch == epoch then
		return answer('ok') -- by a try whose answer was lost
	end
	return lost() or write('open', epoch, 0, math.max(row.token, token - 1))
end

if op == 'lock' then
	if row.state ~= 'open' or row.epoch ~= epoch then
		return answer('notopen')
	end
	if row.token >= token then
		return answer('token')
	end
	return exclusive() or answer('ok')
end

if op == 'close' then
	if row.state == 'moved' and row.epoch == epoch and row.token == token then
		return answer('ok') -- of a try whose answer was lost
	end
	if row.state ~= 'open' or row.epoch ~= epoch then
		return answer('notopen')
	end
	return lost() or write('moved', epoch, destination, token)
end

-- After this, nothing that was sent under this name before changes the row. The
-- rest is the waiting writers' turn.
if op == 'back' then
	if mover == name then
		redis.call('HDEL', key, 'mover', 'movertoken', 'moveruntil')
		redis.call('HSET', key, 'rest', now + math.max(rest, length))
	end
	return answer('ok')
end

return redis.error_reply('ERR podworks: no such operation: ' .. op)
