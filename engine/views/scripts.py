"""The Lua scripts: what must happen in Redis at once, or not at all.

A record K is two strings, `K:0` and `K:1`: two versions of it, each behind the 27 digits of its `Version.order`. A publish writes
every changed record into the one that no reader is being shown (`WRITE`), and then moves the pointer (`COMMIT`). Readers take the
pointer and the newest version at or below it in one call (`READ`), so they see all of a snapshot or nothing of it, also when a
publish ends in the middle: the next one, which has another version and writes every record, finds the same strings free.

Every script that publishes checks the run marker first: Redis does not tell its clients that it was wiped, and a record written
after that must not meet a pointer from before.
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

# KEYS: marker, snapshot, record…   ARGV: epoch, order .. packed record…   → 1, or 0 when the marker is not ours
WRITE = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
local shown = redis.call('GETRANGE', KEYS[2], 0, 26)
for at = 3, #KEYS do
  local first = redis.call('GETRANGE', KEYS[at] .. ':0', 0, 26)
  local second = redis.call('GETRANGE', KEYS[at] .. ':1', 0, 26)
  local slot = ':0'
  if first <= shown and (second > shown or second < first) then slot = ':1' end
  redis.call('SET', KEYS[at] .. slot, ARGV[at - 1])
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

_NEWEST = """
local function newest(key, order)
  local first, second = redis.call('GETRANGE', key .. ':0', 0, 26), redis.call('GETRANGE', key .. ':1', 0, 26)
  local slot, version
  if first ~= '' and first <= order then slot, version = key .. ':0', first end
  if second ~= '' and second <= order and (not slot or second > first) then slot, version = key .. ':1', second end
  return slot, version
end
"""

# KEYS: snapshot, record…   ARGV: of each record what is wanted: "" all of it; 27 digits: all of it, if it has another order than
# that; "#" and a number i: its i-th slice (`engine.views.blocks`)
# → pointer, then of each record what is wanted (1 where it has the order that was given, false where there is no such record or
#   slice), with its order in front where all of it is; nothing at all when no snapshot was published
READ = (
    _NEWEST
    + """
local shown = redis.call('GET', KEYS[1])
if not shown then return {} end
local order = string.sub(shown, 1, 27)
local found = {shown}
for at = 2, #KEYS do
  local wanted = ARGV[at - 1]
  local slot, version = newest(KEYS[at], order)
  if not slot then found[at] = false
  elseif string.sub(wanted, 1, 1) == '#' then
    local place, ends = 4 * tonumber(string.sub(wanted, 2)), struct.unpack('<I4', redis.call('GETRANGE', slot, 27, 30))
    if place + 8 > ends then found[at] = false
    else
      local first, last = struct.unpack('<I4I4', redis.call('GETRANGE', slot, 27 + place, 34 + place))
      found[at] = first < last and redis.call('GETRANGE', slot, 27 + first, 26 + last) or ''
    end
  elseif wanted == version then found[at] = 1
  else found[at] = redis.call('GET', slot) end
end
return found
"""
)

# KEYS: record…   ARGV: order   → the newest version of each at or below that order; false where it is gone or never was
READ_AT = (
    _NEWEST
    + """
local found = {}
for at = 1, #KEYS do
  local slot = newest(KEYS[at], ARGV[1])
  found[at] = slot and redis.call('GET', slot) or false
end
return found
"""
)
