-- How the tables above are shown. Written for Wireshark 4.0 (Lua 5.2) and later; uses no bit operators, which differ
-- between Lua versions.

local diskstream = Proto("diskstream", "Diskstream")

local MAGIC, VERSION, HEADER_BYTES = 0x4453, 1, 32

-- Fields of the header. ---------------------------------------------------------------------------------------------

local kind_names = {}
for kind, message in pairs(MESSAGES) do kind_names[kind] = message.name end

local f = {
  magic = ProtoField.uint16("diskstream.magic", "Magic", base.HEX),
  version = ProtoField.uint8("diskstream.protocol_version", "Protocol version", base.DEC),
  kind = ProtoField.uint8("diskstream.kind", "Kind", base.HEX, kind_names),
  flags = ProtoField.uint16("diskstream.flags", "Flags", base.HEX),
  datagram_length = ProtoField.uint16("diskstream.datagram_length", "Length", base.DEC, nil, nil,
    "Bytes of header, fixed part and tail; bytes behind them are padding"),
  tag = ProtoField.uint64("diskstream.tag", "Tag", base.HEX, nil, nil,
    "The session's tag, or a transaction number before there is a session"),
  auth = ProtoField.bytes("diskstream.auth", "Authenticator"),
  reserved = ProtoField.bytes("diskstream.reserved", "Reserved bytes that are not zero"),
  ticket = ProtoField.bytes("diskstream.ticket", "Ticket"),
  padding = ProtoField.bytes("diskstream.padding", "Padding"),
  data = ProtoField.bytes("diskstream.data", "vDisk data"),
  tail = ProtoField.bytes("diskstream.tail", "Tail"),
  request_in = ProtoField.framenum("diskstream.request_in", "Request in", base.NONE, frametype.REQUEST),
  time = ProtoField.relative_time("diskstream.time", "Time since the request"),
}
local flag_fields, capability_fields = {}, {}
for bit, name in ipairs(FLAGS) do
  flag_fields[bit] = ProtoField.bool("diskstream.flags." .. name, name, 16, nil, 2 ^ (bit - 1))
end
for bit, name in ipairs(CAPABILITIES) do
  capability_fields[bit] =
    ProtoField.bool("diskstream.capabilities." .. name, name, 8, nil, 2 ^ ((bit - 1) % 8))
end

local experts = {
  draining = ProtoExpert.new("diskstream.expert.draining", "The node is draining: the device should move",
    expert.group.SEQUENCE, expert.severity.NOTE),
  unknown_kind = ProtoExpert.new("diskstream.expert.unknown_kind", "A kind that this version does not define",
    expert.group.UNDECODED, expert.severity.NOTE),
  too_short = ProtoExpert.new("diskstream.expert.too_short", "Fewer bytes than the message has",
    expert.group.PROTOCOL, expert.severity.ERROR),
  refused = ProtoExpert.new("diskstream.expert.refused", "A request was refused",
    expert.group.RESPONSE_CODE, expert.severity.WARN),
  unknown_session = ProtoExpert.new("diskstream.expert.unknown_session", "The node does not know this session",
    expert.group.SEQUENCE, expert.severity.NOTE),
}

-- Fields of messages and records, from the tables. ------------------------------------------------------------------

local HEX = { request_id = true, generation = true, session_tag = true, wanted = true, zero_units = true,
  unit_sum = true, second_unit_sum = true, serial = true, offset = true, policy = true }

local function make_field(abbreviation, row)
  local label, doc = row.name:gsub("_", " "), row.doc
  local radix = HEX[row.name] and base.HEX or base.DEC
  if ENUMS[row.type] then
    return ProtoField.uint8(abbreviation, label, base.DEC, ENUMS[row.type], nil, doc)
  elseif row.type == "u8" then return ProtoField.uint8(abbreviation, label, radix, nil, nil, doc)
  elseif row.type == "u16" then return ProtoField.uint16(abbreviation, label, radix, nil, nil, doc)
  elseif row.type == "u32" then return ProtoField.uint32(abbreviation, label, radix, nil, nil, doc)
  elseif row.type == "u64" then return ProtoField.uint64(abbreviation, label, radix, nil, nil, doc)
  elseif row.type == "capabilities" then return ProtoField.uint64(abbreviation, label, base.HEX, nil, nil, doc)
  elseif row.type == "mac" then return ProtoField.ether(abbreviation, label, doc)
  elseif row.type == "text" then return ProtoField.string(abbreviation, label, base.UNICODE, doc)
  elseif row.type == "endpoint" then return ProtoField.ipv6(abbreviation .. ".address", label .. " address", doc)
  else return ProtoField.bytes(abbreviation, label, base.NONE, doc) end
end

local made = {}
local function prepare(item)
  item.by = {}
  for _, row in ipairs(item.rows) do
    item.by[row.name] = row
    if row.type ~= "reserved" then
      local abbreviation = "diskstream." .. (SHARED[row.name] and row.name or (item.filter .. "." .. row.name))
      made[abbreviation] = made[abbreviation] or make_field(abbreviation, row)
      row.field = made[abbreviation]
      if row.type == "endpoint" then
        local port = abbreviation .. ".port"
        made[port] = made[port] or ProtoField.uint16(port, row.name:gsub("_", " ") .. " port", base.DEC)
        row.port_field = made[port]
      end
    end
  end
end
for _, message in pairs(MESSAGES) do prepare(message) end
for _, record in pairs(RECORDS) do prepare(record) end

local all_fields = {}
for _, field in pairs(f) do all_fields[#all_fields + 1] = field end
for _, field in ipairs(flag_fields) do all_fields[#all_fields + 1] = field end
for _, field in ipairs(capability_fields) do all_fields[#all_fields + 1] = field end
for _, field in pairs(made) do all_fields[#all_fields + 1] = field end
diskstream.fields = all_fields
diskstream.experts = experts

-- Single values. ----------------------------------------------------------------------------------------------------

local function is_zero(range) return not range:bytes():tohex():find("[^0]") end

local function short_hex(range)
  local digits = range:bytes():tohex():lower():gsub("^0+", "")
  return "0x" .. (digits == "" and "0" or digits)
end

local function bits_set(range)
  local count = 0
  for at = 0, range:len() - 1 do
    local byte = range(at, 1):uint()
    while byte > 0 do
      count = count + byte % 2
      byte = math.floor(byte / 2)
    end
  end
  return count
end

local function text_of(range)
  local raw = range:bytes()
  local length = 0
  while length < raw:len() and raw:get_index(length) ~= 0 do length = length + 1 end
  return length == 0 and "" or range(0, length):string(ENC_UTF_8)
end

local function endpoint_text(range)
  if is_zero(range) then return "none" end
  local port = range(16, 2):uint()
  if range(0, 12):bytes():tohex():upper() == "00000000000000000000FFFF" then
    return tostring(range(12, 4):ipv4()) .. ":" .. port
  end
  return "[" .. tostring(range(0, 16):ipv6()) .. "]:" .. port
end

local function add_row(row, range, tree)
  if row.type == "reserved" then
    if not is_zero(range) then tree:add(f.reserved, range) end
  elseif row.type == "endpoint" then
    local branch = tree:add(range, row.name:gsub("_", " ") .. ": " .. endpoint_text(range))
    branch:add(row.field, range(0, 16))
    branch:add(row.port_field, range(16, 2))
  elseif row.type == "text" then
    tree:add(row.field, range, text_of(range))
  elseif row.type == "capabilities" then
    local branch = tree:add(row.field, range)
    for bit, field in ipairs(capability_fields) do
      branch:add(field, range(7 - math.floor((bit - 1) / 8), 1))
    end
  else
    tree:add(row.field, range)
  end
end

-- Adds the rows that were captured; false when the capture cut some off.
local function add_rows(item, tvb, start, tree)
  for _, row in ipairs(item.rows) do
    if start + row.offset + row.bytes > tvb:len() then return false end
    add_row(row, tvb(start + row.offset, row.bytes), tree)
  end
  return true
end

-- Requests and their answers. ---------------------------------------------------------------------------------------

local waiting, answers = {}, {}
function diskstream.init() waiting, answers = {}, {} end

-- A notice is the one question that a node asks.
local function is_request(message)
  if message.name == "Notice" then return true end
  return message.to_node and message.name ~= "NoticeAck"
end

-- Keys under which a datagram is matched, the most telling first.
local function keys_of(message, value, tag)
  local id = message.by.request_id and value("request_id"):bytes():tohex()
    or (message.by.sequence and "s" .. value("sequence"):uint()) or "-"
  local plain = tag .. ":" .. id
  if message.by.attempt then return { plain .. ":" .. value("attempt"):uint(), plain } end
  return { plain }
end

local function match(message, value, tag, place, pinfo, tree)
  local keys = keys_of(message, value, tag)
  if is_request(message) then
    if not pinfo.visited then
      for _, key in ipairs(keys) do waiting[key] = { number = pinfo.number, seconds = pinfo.rel_ts } end
    end
    return
  end
  local request = waiting[keys[1]]
  if request and not pinfo.visited then
    answers[place] = { number = request.number, seconds = pinfo.rel_ts - request.seconds }
  end
  local answer = answers[place]
  if answer and answer.number ~= pinfo.number then
    local whole = math.floor(answer.seconds)
    local delta = NSTime.new(whole, math.floor((answer.seconds - whole) * 1e9 + 0.5))
    tree:add(f.request_in, answer.number):set_generated()
    tree:add(f.time, delta):set_generated()
  end
end

-- What the information column says. ---------------------------------------------------------------------------------

local function number(value, name) return tostring(value(name):uint()) end
local function label(value, name, type)
  local code = value(name):uint()
  return ENUMS[type][code] or ("other (" .. code .. ")")
end

local INFO = {
  LoginPortRequest = function(v) return tostring(v("mac"):ether()) .. " " .. label(v, "login_kind", "login_kind") end,
  LoginPortReply = function(v) return endpoint_text(v("login")) end,
  LoginStart = function(v)
    return tostring(v("mac"):ether()) .. " " .. label(v, "login_kind", "login_kind") .. " " .. text_of(v("vdisk"))
  end,
  LoginTransfer = function(v) return text_of(v("vdisk")) .. " at " .. endpoint_text(v("node")) end,
  LoginBusy = function(v) return number(v, "wait_ms") .. " ms " .. label(v, "reason", "busy_reason") end,
  LoginReject = function(v) return label(v, "reason", "reject_reason") .. ": " .. text_of(v("text")) end,
  IoPortRequest = function(v) return tostring(v("mac"):ether()) end,
  IoPortReply = function(v) return endpoint_text(v("io")) end,
  IoServiceStart = function(v) return tostring(v("mac"):ether()) .. " " .. text_of(v("vdisk")) end,
  LoginComplete = function(v) return "session " .. number(v, "session") .. " tag " .. short_hex(v("session_tag")) end,
  VdiskInfo = function(v)
    return text_of(v("vdisk")) .. " version " .. number(v, "version") .. " " .. tostring(v("size_bytes"):uint64()) .. " B"
  end,
  Handshake = function(v) return text_of(v("device_name")) .. " window " .. number(v, "window") end,
  HandshakeReply = function(v)
    if v("accepted"):uint() == 0 then return "refused: " .. label(v, "reason", "reject_reason") end
    return "window " .. number(v, "window") .. " datagrams " .. number(v, "datagram_bytes") .. " B"
  end,
  Read = function(v)
    return number(v, "length") .. " B @ " .. short_hex(v("offset")) .. " wants " .. bits_set(v("wanted"))
      .. " x " .. (ENUMS.fragment_size[v("fragment_size"):uint()] or "?") .. " attempt " .. number(v, "attempt")
  end,
  ReadData = function(v)
    return "frag " .. number(v, "fragment") .. " " .. number(v, "data_bytes") .. " B @ " .. short_hex(v("offset"))
  end,
  ReadZero = function(v) return bits_set(v("zero_units")) .. " units @ " .. short_hex(v("offset")) end,
  ReadPending = function(v) return "waited " .. number(v, "waited_ms") .. " ms" end,
  ReadBusy = function(v) return "again in " .. number(v, "wait_ms") .. " ms" end,
  ReadError = function(v)
    return label(v, "code", "read_error") .. " " .. number(v, "length") .. " B @ " .. short_hex(v("offset"))
  end,
  UnknownSession = function(v) return "session " .. number(v, "session") end,
  ExtentsRequest = function(v) return tostring(v("length"):uint64()) .. " B @ " .. short_hex(v("offset")) end,
  Extents = function(v) return number(v, "count") .. " extents @ " .. short_hex(v("offset")) end,
  KeepAlive = function(v)
    return "#" .. number(v, "sequence") .. " srtt " .. number(v, "srtt_us") .. " us retries "
      .. tostring(v("retries"):uint64())
  end,
  KeepAliveReply = function(v) return "#" .. number(v, "sequence") end,
  Notice = function(v)
    return label(v, "reason", "notice_reason") .. " in " .. number(v, "deadline_ms") .. " ms, "
      .. number(v, "node_count") .. " successors"
  end,
  NoticeAck = function(v) return "#" .. number(v, "sequence") end,
  SessionClose = function(v) return label(v, "reason", "close_reason") end,
  SessionClosed = function(v) return label(v, "reason", "close_reason") end,
  PathProbe = function(v) return "#" .. number(v, "sequence") .. " " .. number(v, "probe_bytes") .. " B" end,
  PathProbeReply = function(v) return "#" .. number(v, "sequence") .. " " .. number(v, "probe_bytes") .. " B" end,
}

-- Tails. ------------------------------------------------------------------------------------------------------------

local function add_records(record, count, tvb, at, tree)
  for index = 1, count do
    if at + record.bytes > tvb:len() then return at end
    local range = tvb(at, record.bytes)
    local branch = tree:add(range, record.name .. " " .. index)
    add_rows(record, tvb, at, branch)
    if record.name == "NodeEntry" then branch:append_text(": " .. endpoint_text(range(0, 18))) end
    if record.name == "ExtentEntry" then
      local what = range(8, 1):uint() == 1 and "zeros" or "data"
      branch:append_text(": " .. tostring(range(0, 8):uint64()) .. " B of " .. what)
    end
    at = at + record.bytes
  end
  return at
end

local function add_bytes(field, tvb, at, bytes, tree)
  bytes = math.min(bytes, tvb:len() - at)
  if bytes <= 0 then return at end
  tree:add(field, tvb(at, bytes))
  return at + bytes
end

local function add_tail(message, value, tvb, tree)
  local at = message.bytes
  if message.by.node_count then
    at = add_records(RECORDS.NodeEntry, value("node_count"):uint(), tvb, at, tree)
  end
  if message.by.count then at = add_records(RECORDS.ExtentEntry, value("count"):uint(), tvb, at, tree) end
  if message.by.ticket_bytes then at = add_bytes(f.ticket, tvb, at, value("ticket_bytes"):uint(), tree) end
  if message.by.pad_bytes then
    at = add_bytes(f.padding, tvb, at, value("pad_bytes"):uint(), tree)
    at = add_bytes(f.data, tvb, at, value("data_bytes"):uint(), tree)
  end
  add_bytes(f.tail, tvb, at, tvb:len() - at, tree)
end

-- One datagram, and a train of them. --------------------------------------------------------------------------------

local function add_flags(tvb, tree)
  local branch = tree:add(f.flags, tvb(4, 2))
  local flags, names = tvb(4, 2):uint(), {}
  for bit, name in ipairs(FLAGS) do
    branch:add(flag_fields[bit], tvb(4, 2))
    if math.floor(flags / 2 ^ (bit - 1)) % 2 == 1 then names[#names + 1] = name end
  end
  if #names > 0 then branch:append_text(" (" .. table.concat(names, ", ") .. ")") end
  if flags % 2 == 1 then branch:add_proto_expert_info(experts.draining) end
  return names
end

-- Dissects the datagram that fills `tvb` (the capture may have cut it); gives the line for the information column.
local function dissect_datagram(tvb, length, place, pinfo, root)
  local tree = root:add(diskstream, tvb(0, tvb:len()))
  tree:add(f.magic, tvb(0, 2))
  tree:add(f.version, tvb(2, 1))
  local kind_item = tree:add(f.kind, tvb(3, 1))
  local marks = add_flags(tvb, tree)
  tree:add(f.datagram_length, tvb(6, 2))
  tree:add(f.tag, tvb(8, 8))
  if not is_zero(tvb(16, 16)) then tree:add(f.auth, tvb(16, 16)) end

  local kind = tvb(3, 1):uint()
  local message = MESSAGES[kind]
  if not message then
    kind_item:add_proto_expert_info(experts.unknown_kind)
    return string.format("unknown kind 0x%02x", kind)
  end
  tree:append_text(", " .. message.name)
  if length < message.bytes then
    tree:add_proto_expert_info(experts.too_short)
    return message.name .. " too short"
  end
  if not add_rows(message, tvb, 0, tree) then return message.name .. " (cut by the capture)" end

  local function value(name)
    local row = message.by[name]
    return tvb(row.offset, row.bytes)
  end
  add_tail(message, value, tvb, tree)
  match(message, value, tvb(8, 8):bytes():tohex(), place, pinfo, tree)
  if message.name == "LoginReject" or message.name == "ReadError" then
    tree:add_proto_expert_info(experts.refused)
  elseif message.name == "UnknownSession" then
    tree:add_proto_expert_info(experts.unknown_session)
  end

  local describe = INFO[message.name]
  local line = message.name .. (describe and (" " .. describe(value)) or "")
  if #marks > 0 then line = line .. " [" .. table.concat(marks, ", "):upper() .. "]" end
  tree:append_text(line:sub(#message.name + 1))
  return line
end

local function starts_here(tvb, at)
  if tvb:len() - at < HEADER_BYTES then return false end
  local length = tvb(at + 6, 2):uint()
  return tvb(at, 2):uint() == MAGIC and tvb(at + 2, 1):uint() == VERSION
    and length >= HEADER_BYTES and length <= tvb:reported_len() - at
end

-- A capture on the sending host sees a GSO send before it is cut: one big packet of many datagrams, a train.
function diskstream.dissector(tvb, pinfo, root)
  if not starts_here(tvb, 0) then return 0 end
  pinfo.cols.protocol = "Diskstream"
  local at, count, first = 0, 0, nil
  while starts_here(tvb, at) do
    local length = tvb(at + 6, 2):uint()
    local captured = math.min(length, tvb:len() - at)
    local place = pinfo.number .. ":" .. at
    local line = dissect_datagram(tvb(at, captured):tvb(), length, place, pinfo, root)
    first = first or line
    count = count + 1
    at = at + captured
  end
  if at < tvb:len() then root:add(f.padding, tvb(at)) end
  pinfo.cols.info = first .. (count > 1 and (" (+" .. count - 1 .. " more in one send)") or "")
  return tvb:len()
end

local function heuristic(tvb, pinfo, root)
  if not (starts_here(tvb, 0) and MESSAGES[tvb(3, 1):uint()]) then return false end
  diskstream.dissector(tvb, pinfo, root)
  return true
end

for _, port in ipairs(PORTS) do DissectorTable.get("udp.port"):add(port, diskstream) end
diskstream:register_heuristic("udp", heuristic)
