-- For wrk: a header that differs in every request. Each has a Cookie of its own, counted from the number in the arguments.

local count, before, behind

function init(arguments)
    count = tonumber(arguments[1])
    wrk.headers.Cookie = "session=@" -- beside those of the command
    local request = wrk.format("GET", wrk.path)
    local at = request:find("@", 1, true)
    before, behind = request:sub(1, at - 1), request:sub(at + 1)
end

function request()
    count = count + 1
    return before .. count .. behind
end
