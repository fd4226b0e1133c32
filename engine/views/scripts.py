"""The Lua scripts: what must happen in Redis at once, or not at all.

A feature's hash holds two versions of its record. A publish writes each changed record into the slot that no reader is being shown
(`WRITE`), and then moves the pointer (`COMMIT`). Readers take the pointer and the newest version at or below it in one call
(`READ`), so they see all of a snapshot or nothing of it, also when a publish ends in the middle: the next one, which has another
version and writes every record, finds the same slots free.

Orders are the 27 digits of `Version.order`. Every script that publishes checks the run marker first: Redis does not tell its
clients that it was wiped, and a record written after that must not meet a pointer from before.
"""

# KEYS: marker, snapshot, run, uploads, convergence   ARGV: epoch, packed run
# → epoch of a later engine that publishes here (nothing was changed), or "", and the packed run that was here before.
TAKE_OVER = """
local there = redis.call('GET', KEYS[1])
if there and tonumber(there) > tonumber(ARGV[1]) then return {there, false} end
local run = redis.call('GET', KEYS[3])
if run ~= ARGV[2] then
  redis.call('DEL', KEYS[2], KEYS[4], KEYS[5])
  redis.call('SET', KEYS[3], ARGV[2])
end
redis.call('SET', KEYS[1], ARGV[1])
return {'', run}
"""

# KEYS: marker, snapshot, feature…   ARGV: epoch, order, packed record…   → 1, or 0 when the marker is not ours
WRITE = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
local shown = redis.call('GET', KEYS[2])
shown = shown and string.sub(shown, 1, 27) or ''
for at = 3, #KEYS do
  local have = redis.call('HMGET', KEYS[at], 'v0', 'v1')
  local first, second = have[1] or '', have[2] or ''
  local slot = '0'
  if first <= shown and (second > shown or second < first) then slot = '1' end
  redis.call('HSET', KEYS[at], slot, ARGV[at], 'v' .. slot, ARGV[2])
end
return 1
"""

# KEYS: marker, snapshot, events, status, convergence, uploads
# ARGV: epoch, order, version, packed snapshot, packed status, packed convergence, "1" to begin the uploads anew, id, upload, id, …
# → 1, or 0 when the marker is not ours. A repeated call (the client lost its connection before the answer) changes nothing.
COMMIT = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
local shown = redis.call('GET', KEYS[2])
if shown and string.sub(shown, 1, 27) == ARGV[2] then return 1 end
redis.call('SET', KEYS[2], ARGV[2] .. ARGV[4])
redis.call('SET', KEYS[4], ARGV[5])
redis.call('SET', KEYS[5], ARGV[6])
if ARGV[7] == '1' then redis.call('DEL', KEYS[6]) end
for at = 8, #ARGV, 2 do redis.call('HSET', KEYS[6], ARGV[at], ARGV[at + 1]) end
redis.call('XADD', KEYS[3], 'MAXLEN', '~', '1000', ARGV[3], 'snapshot', ARGV[4])
return 1
"""

# KEYS: marker, status, convergence, uploads   ARGV: epoch, packed status, packed convergence or "", id, upload, id, …
# → 1, or 0 when the marker is not ours
BEAT = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[2], ARGV[2])
if ARGV[3] ~= '' then redis.call('SET', KEYS[3], ARGV[3]) end
for at = 4, #ARGV, 2 do redis.call('HSET', KEYS[4], ARGV[at], ARGV[at + 1]) end
return 1
"""

# KEYS: snapshot, feature…   → pointer, record…; nothing when no snapshot was published
READ = """
local shown = redis.call('GET', KEYS[1])
if not shown then return {} end
local order = string.sub(shown, 1, 27)
local found = {shown}
for at = 2, #KEYS do
  local have = redis.call('HMGET', KEYS[at], 'v0', 'v1')
  local first, second = have[1] or '~', have[2] or '~'
  local slot = false
  if first <= order then slot = '0' end
  if second <= order and (not slot or second > first) then slot = '1' end
  found[at] = slot and redis.call('HGET', KEYS[at], slot)
end
return found
"""

# KEYS: feature…   ARGV: order   → the newest record of each at or below that order; false where it is gone or never was
READ_AT = """
local order = ARGV[1]
local found = {}
for at = 1, #KEYS do
  local have = redis.call('HMGET', KEYS[at], 'v0', 'v1')
  local first, second = have[1] or '~', have[2] or '~'
  local slot = false
  if first <= order then slot = '0' end
  if second <= order and (not slot or second > first) then slot = '1' end
  found[at] = slot and redis.call('HGET', KEYS[at], slot)
end
return found
"""
