#!lua flags=allow-oom
-- Claim due jobs: each gets a lease that names its owner, and moves behind the jobs that are due.
-- KEYS  queue, running, aborted, cancelled, exclusive slot, workers, renewal time
-- ARGV   1  jobs wanted
--        2  lease in ms
--        3  the owner's token
--        4  the owner's name
--        5  number of jobs that the owner runs now, without those that work outside
--        6  crashes after which a job is a suspect
--        7  crashes after which a job is given up
--        8  the last bytes of this queue's bodies
--        9  the longest body that is accepted; longer ones are cut, to a byte more
--       10  further jobs wanted of the batchable kinds
--       11  further jobs wanted of the kinds that work outside
--       12  the id of the last job that was passed over, or ''
--       13  its score, or ''
--       14  the number of looks back so far, to look again at jobs that were passed over; or 0
--       15  1 if a suspect works outside in the owner now, or 0
--       16  1 if a doubtful job works outside in the owner now, or 0
--       17  how many times as many crashes a job that works outside may have
--       18  the number of batchable kinds
--       19… the names of the batchable kinds, then those of the kinds that work outside
-- A job that works outside and for which there is no room is passed over: the jobs behind it have their turn. The owner
-- remembers the last one, so that no claim looks again at all that wait.
-- A body that names another queue is not answered, and arq's keys of its id are left alone: the attempt 0 in
-- the entry of such a claim says so.
-- Answers {jobs, drain first, aborted ids, cancelled ids, ms until the next is due or -1, id and score of the last job
-- that was passed over}; a job is {id, body or nil, attempt, score, crashes, interruptions, log, how it runs}.
-- A suspect is a job with which workers died. A worker has one at a time. A suspect that does not work outside runs alone,
-- beside jobs that wait outside only; one that does would keep out all others for as long as it waits, and runs beside
-- them. A job that works outside is doubtful before it is a suspect, when it has met as many crashes as make a suspect of
-- another job. A suspect that ran beside a doubtful job is not blamed for a crash: either may have caused it.
-- "Drain first" asks the owner to let its jobs end, but for those outside, and claim again: the next one must run alone.
local queue, running, aborted, cancelled, exclusive_slot, workers, renewal = unpack(KEYS)
local lease, token, worker = tonumber(ARGV[2]), ARGV[3], ARGV[4]
local busy, isolate_after, give_up_after = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local outside_factor = tonumber(ARGV[17])
local mark, longest = ARGV[8], tonumber(ARGV[9])
local OWN, SHARED, OUTSIDE = 0, 1, 2 -- how a job runs: in its own transaction, in a group's, outside first
local room = {[OWN] = tonumber(ARGV[1]), [SHARED] = tonumber(ARGV[10]), [OUTSIDE] = tonumber(ARGV[11])}
local passed = {id = ARGV[12], score = ARGV[13]}
local how = {} -- kind → how its jobs run
local FIRST = 19 -- of the kinds
for i = FIRST, #ARGV do how[ARGV[i]] = i < FIRST + tonumber(ARGV[18]) and SHARED or OUTSIDE end
local works_outside, look_back = #ARGV >= FIRST + tonumber(ARGV[18]), tonumber(ARGV[14])
local has_suspect, has_doubtful = ARGV[15] == '1', ARGV[16] == '1' -- that work outside
local FAILURES_OF = failures_of_queue(queue)
local MONTH = 30 * 24 * 3600 * 1000
local HEAVY = 8 * 1024 * 1024 -- bytes of bodies after which a claim ends: a worker holds all in memory
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function whole(number) return string.format('%.0f', number) end

local moved = 0 -- jobs that were looked at, and are due later now
local function later(id, ms, fraction)
    redis.call('ZADD', queue, 'XX', whole(now + ms) .. (fraction or ''), id)
    moved = moved + 1
end

-- true if the owner of a lease that ran out lives: the owner is this worker, or gave a sign of life just now. Then the
-- end of the lease is no crash. Workers beat three times in a lease, so the last sign of one that died is two thirds of
-- a lease old, as a rule.
local function lives(lost)
    local owner, who = string.match(lost, '^([^|]*)|[^|]*|[^|]*|(.*)$')
    if owner == token then return true end
    local seen = tonumber(guarded('ZSCORE', workers, who or '') or nil)
    return seen ~= nil and now - seen * 1000 < lease / 2
end

-- ms for which a job whose lease ran out is left to its owner, or 0. While nobody reached Redis, or Redis' clock jumped,
-- all leases ran out, and no owner could give a sign of life. An owner has this time once: the job's score then ends
-- with .5, until a renewal or a claim writes another one
local LEFT_TO_OWNER = '.5'
local renewal_time -- ms, the same for all jobs of this claim
local function time_to_renew(had, score)
    local is_own = string.sub(had, 1, #token + 1) == token .. '|'
    if is_own or string.sub(score, -#LEFT_TO_OWNER) == LEFT_TO_OWNER then return 0 end
    if not renewal_time then
        local left = redis.call('PTTL', renewal)
        renewal_time = left > 0 and left or all_are_silent(workers, lease / 2) and math.floor(lease / 2) or 0
    end
    return renewal_time
end

-- the crashes, interruptions and log of a job, and if it is blamed for the end of its last owner; `lost` is the claim of
-- an owner that died with the job, or false
local function failures_of(id, lost)
    local known = guarded('HMGET', FAILURES_OF .. id, 'crashes', 'interruptions', 'log', 'beside', 'spared')
    known = known or {false, false, false, false, false}
    local spared_enough = (tonumber(known[5]) or 0) >= isolate_after -- it is always there when a worker dies
    local blamed = lost and (spared_enough or known[4] ~= string.match(lost, '^[^|]*'))
    local crashes = (tonumber(known[1]) or 0) + (blamed and 1 or 0)
    return crashes, tonumber(known[2]) or 0, known[3] or '', blamed
end

local function note_crash(id, lost, log, blamed)
    local owner, since, attempt, who = string.match(lost, '^([^|]*)|([^|]*)|([^|]*)|(.*)$')
    local line = cjson.encode({
        attempt = tonumber(attempt) or 1, worker = who or '', since = tonumber(since) or 0,
        error = 'the worker died',
    })
    local key = FAILURES_OF .. id
    log = log .. line .. '\n'
    local count = blamed and 'crashes' or 'spared'
    guarded('HINCRBY', key, count, 1)
    guarded('HSET', key, 'owner:' .. owner, count .. ' ' .. line) -- review_crashes.lua needs it, if the owner lives
    if #log < 100000 then guarded('HSET', key, 'log', log) end
    guarded('PEXPIRE', key, MONTH)
    return log
end

-- the number of the next attempt. Those before it are counted: acknowledge.lua writes the count after a failure, and
-- arq's own worker when it begins an attempt. A claim, a crash and a release are not counted
local function attempt_of(id)
    local counted = tonumber(string.match(guarded('GET', RETRY .. id) or '', '^%d+$')) or 0
    return math.min(counted, 1000000) + 1
end

-- the kind that a body names. The clients of ledgerq and arq write the kind second, where it is found without reading
-- the rest; a body whose keys are in another order is decoded, unless the body is large: Redis is blocked meanwhile
local DECODED = 4 * 1024
local function kind_of(body)
    local kind = string.match(body, '^{%s*"t"%s*:[^,]*,%s*"f"%s*:%s*"([^"\\]+)"')
    if kind or #body > DECODED then return kind end
    local is_json, content = pcall(cjson.decode, body)
    return is_json and type(content) == 'table' and content['f']
end

local function how_it_runs(job)
    return job.body and next(how) and how[kind_of(job.body) or ''] or OWN
end

-- true if the job has not failed before, and no other claim was on it: it may share a transaction
local function is_first(id, job, failures)
    return job.fresh or (failures == 0 and not job.had and redis.call('EXISTS', RETRY .. id) == 0)
end

local jobs, drain_first = {}, 0
local plain = 0 -- claimed jobs that do not work outside
local held_up, waiting = 0, 0 -- suspects that must wait: of this page, and of the pages before
local stops = redis.call('EXISTS', aborted, cancelled) > 0 -- somebody wants jobs stopped

-- a job that works outside is there far longer than others, so it meets more crashes that are not its own
local function is_suspect(crashes, runs)
    local allowed = runs == OUTSIDE and outside_factor or 1
    return crashes >= isolate_after * allowed and crashes < give_up_after * allowed
end

-- true if the job may not be claimed now; a job that somebody cancels is then due a second later
local function must_wait(id, crashes, runs)
    if stops and redis.call('ZSCORE', cancelled, id) then
        later(id, 1000)
        return true
    end
    if not is_suspect(crashes, runs) then return false end
    if not has_suspect and runs == OUTSIDE then
        has_suspect = true
        return false
    end
    if not has_suspect and busy == 0 and plain == 0 then return false end
    held_up = held_up + 1
    if has_suspect then return true end
    if redis.call('SET', exclusive_slot, token .. '|' .. id, 'NX', 'PX', lease) then drain_first = 1 end
    return true -- the worker that has the exclusive slot claims the job later
end

-- how many jobs come before those that must be looked at: up to the last one that was passed over
local function passed_over()
    if passed.id == '' or tonumber(passed.score) > now then return 0 end -- Redis' clock was set back
    local score = redis.call('ZSCORE', queue, passed.id)
    if score == passed.score then return redis.call('ZRANK', queue, passed.id) + 1 end
    return redis.call('ZCOUNT', queue, '-inf', '(' .. passed.score)
end

-- the due jobs with their scores. If this worker has the exclusive slot: none while it runs other jobs, then the one
-- job that must run alone
local PASSED_OVER = 500 -- jobs that one claim passes over, at most
local MUST_WAIT = 20 -- suspects before the others, as a rule
local first_behind = 1 -- where the jobs begin that were not passed over before
local looked_at = 0 -- the rank behind the last of them
local function due_from(rank, most)
    looked_at = rank + most
    return redis.call('ZRANGEBYSCORE', queue, '-inf', whole(now), 'WITHSCORES', 'LIMIT', rank, most)
end

local function due_jobs()
    local entry = redis.call('GET', exclusive_slot)
    if entry and string.sub(entry, 1, #token + 1) == token .. '|' then
        local id = string.sub(entry, #token + 2)
        local score = redis.call('ZSCORE', queue, id)
        if score and tonumber(score) <= now and busy > 0 then
            redis.call('PEXPIRE', exclusive_slot, lease)
            drain_first = 1
            return {}
        end
        redis.call('DEL', exclusive_slot)
        if score and tonumber(score) <= now then return {id, score} end
    end
    local most = room[OWN] + room[SHARED] + room[OUTSIDE]
    if works_outside and room[OUTSIDE] == 0 then most = most + PASSED_OVER end
    local due, behind = {}, passed_over()
    for _, id in ipairs(stops and redis.call('ZRANGE', aborted, 0, 99) or {}) do -- wherever they are, they only end
        local score = redis.call('ZSCORE', queue, id)
        if score and tonumber(score) <= now then
            due[#due + 1] = id
            due[#due + 1] = score
        end
    end
    -- there is room for some of those that were passed over; suspects that must wait may be the first of them
    local again = math.max(room[OUTSIDE] > 0 and room[OUTSIDE] + MUST_WAIT or 0, look_back > 0 and PASSED_OVER or 0)
    for _, each in ipairs(due_from(0, math.min(behind, again))) do due[#due + 1] = each end
    local page = look_back % math.max(1, math.ceil(behind / PASSED_OVER)) * PASSED_OVER
    if page > 0 then -- other clocks than ours put jobs between those that were passed over
        for _, each in ipairs(due_from(page, math.min(behind - page, PASSED_OVER))) do due[#due + 1] = each end
    end
    first_behind = #due + 1
    for _, each in ipairs(due_from(behind, most)) do due[#due + 1] = each end
    return due
end

-- the body for this worker, or false; a second answer, true, if the body is of another queue's job
local function received(body)
    if not body then return false end
    if string.sub(body, -#mark) ~= mark then
        local named = queue_of(body)
        if named and named ~= queue then return false, true end
    end
    return #body > longest and string.sub(body, 1, longest + 1) or body
end

-- what is known of the next `AT_ONCE` jobs, looked up together, because one command for each job would be slow; not of
-- many more than there is room for. A job is fresh if no worker has it, and no failure, crash or interruption of it is
-- known.
local AT_ONCE = math.max(10, math.min(room[OWN] + room[SHARED], 50))
local function look_up(due, from)
    local ids, bodies, marks, known = {}, {}, {}, {}
    for i = from, math.min(#due, from + 2 * AT_ONCE - 1), 2 do
        local id = due[i]
        ids[#ids + 1] = id
        bodies[#bodies + 1] = JOB .. id
        marks[#marks + 1] = IN_PROGRESS .. id
        marks[#marks + 1] = RETRY .. id
        marks[#marks + 1] = FAILURES_OF .. id
    end
    local none = redis.call('EXISTS', unpack(marks)) == 0
    local body, lost = redis.call('MGET', unpack(bodies)), redis.call('HMGET', running, unpack(ids))
    for n, id in ipairs(ids) do
        local ours, elsewhere = received(body[n])
        local crashed = lost[n] and not lives(lost[n]) and lost[n]
        known[id] = {
            body = ours, elsewhere = elsewhere, had = lost[n], lost = crashed, fresh = none and not lost[n],
        }
    end
    return known
end

-- true if a worker has the job, or may have it and gets time to renew its lease; the job is due when that time is over
local function is_held(id, had, score)
    local progress = IN_PROGRESS .. id
    local held = redis.call('PTTL', progress)
    if held == -2 then
        local left = had and time_to_renew(had, score) or 0
        if left > 0 then later(id, left + 1, LEFT_TO_OWNER) end
        return left > 0
    end
    if held < 0 then
        redis.call('PEXPIRE', progress, lease)
        held = lease
    end
    later(id, held + 1)
    return true
end

local entries, scores, weight = {}, {}, 0 -- of the claimed jobs: written together, at the end

-- forget an abort that is older than the job: it was meant for an earlier job with this id
local function forget_old_abort(id, body)
    local asked = redis.call('ZSCORE', aborted, id)
    local enqueued = asked and body and string.match(string.sub(body, -1500), '^.*"et"%s*:%s*(%d+)')
    if enqueued and tonumber(asked) < tonumber(enqueued) then redis.call('ZREM', aborted, id) end
end

local function claim(id, score, job, crashes, interruptions, log, runs, blamed)
    if job.lost then log = note_crash(id, job.lost, log, blamed) end
    if runs == OUTSIDE then
        has_doubtful = has_doubtful or crashes >= isolate_after
    elseif is_suspect(crashes, runs) then
        guarded('HSET', FAILURES_OF .. id, 'beside', has_doubtful and token or '')
    end
    local attempt = job.elsewhere and 0 or job.fresh and 1 or attempt_of(id)
    if not job.elsewhere then redis.call('SET', IN_PROGRESS .. id, token, 'PX', lease) end
    if job.body and not string.find(job.body, '"_staged"', 1, true) then
        redis.call('PERSIST', JOB .. id) -- not staged: this is the only copy of the body
    end
    if stops then forget_old_abort(id, job.body) end
    entries[#entries + 1] = id
    entries[#entries + 1] = token .. '|' .. whole(now) .. '|' .. attempt .. '|' .. worker
    scores[#scores + 1] = whole(now + lease)
    scores[#scores + 1] = id
    weight = weight + (job.body and #job.body or 0)
    jobs[#jobs + 1] = {id, job.body, math.max(1, attempt), score, crashes, interruptions, log, runs}
end

-- milliseconds until the job of that rank is due, at most an hour; -1 if there is none
local function due_in(rank)
    local first = redis.call('ZRANGE', queue, rank, rank, 'WITHSCORES')
    return first[2] and math.ceil(math.max(0, math.min(tonumber(first[2]) - now, 3600000))) or -1
end

local idle, look_on = due_in(0), false -- look on: the last job that was looked at was passed over
if idle == 0 and room[OWN] + room[SHARED] + room[OUTSIDE] > 0 then
    local due, known, taken = due_jobs(), {}, {}
    local i, again, behind_suspect, held = -1, 0, 0, 0
    while true do
        i = i + 2
        if i > #due and held_up + held > 0 and again < 10 and looked_at > 0 then -- they hide no job behind them
            looked_at, moved = math.max(0, looked_at - moved), 0
            local further = due_from(looked_at, math.min((held_up + held) * 2, PASSED_OVER))
            waiting, held_up, held, again = waiting + held_up, 0, 0, again + 1
            for _, each in ipairs(further) do due[#due + 1] = each end
        end
        if i > #due then break end
        local id = due[i]
        if not known[id] then known = look_up(due, i) end
        local job = known[id]
        local runs = how_it_runs(job)
        if stops and runs == OUTSIDE and redis.call('ZSCORE', aborted, id) then runs = OWN end
        look_on = runs == OUTSIDE and room[OUTSIDE] == 0
        if taken[id] then
            look_on = false
        elseif look_on then
            weight = weight + #job.body
            -- one that is due this very millisecond is looked at again: others may come before it; and so are some that
            -- stand behind a suspect, whose turn may come at any time
            if held_up + waiting > 0 then behind_suspect = behind_suspect + 1 end
            local is_behind = i >= first_behind and (behind_suspect == 0 or behind_suspect >= PASSED_OVER / 2)
            if is_behind and tonumber(due[i + 1]) < now then passed = {id = id, score = due[i + 1]} end
            if room[OWN] + room[SHARED] == 0 or weight > HEAVY then break end
        elseif job.fresh or job.elsewhere or not is_held(id, job.had, due[i + 1]) then
            local crashes, interruptions, log, blamed = 0, 0, '', false
            if not job.fresh then crashes, interruptions, log, blamed = failures_of(id, job.lost) end
            if runs == SHARED and not is_first(id, job, crashes + interruptions) then runs = OWN end
            if room[runs] == 0 then break end -- no room: the jobs start in order
            if not must_wait(id, crashes, runs) then
                room[runs] = room[runs] - 1
                taken[id] = true
                plain = plain + (runs == OUTSIDE and 0 or 1)
                claim(id, due[i + 1], job, crashes, interruptions, log, runs, blamed)
                if (runs ~= OUTSIDE and is_suspect(crashes, runs)) or weight > HEAVY then break end
            elseif drain_first == 1 then
                break
            end
        else
            held, weight = held + 1, weight + #(job.body or '')
            if weight > HEAVY then break end
        end
    end
end
for i = 1, #entries, 1000 do -- Lua limits the number of arguments in one call
    local last = math.min(#entries, i + 999)
    redis.call('HSET', running, unpack(entries, i, last))
    redis.call('ZADD', queue, 'XX', unpack(scores, i, last))
end

local function standing(set, age)
    if not stops then return {} end
    redis.call('ZREMRANGEBYSCORE', set, '-inf', whole(now - age))
    return redis.call('ZRANGE', set, 0, 999)
end

if idle == 0 then idle = due_in(room[OUTSIDE] == 0 and passed_over() or 0) end
return {
    jobs, drain_first, standing(aborted, 24 * 3600 * 1000), standing(cancelled, 60 * 1000),
    look_on and idle == 0 and held_up + waiting == 0 and 1 or idle, passed.id, passed.score,
}
