-- For wrk: as many requests at once, in one piece, as the number in the arguments says.

local together

function init(arguments)
    together = wrk.format("GET", wrk.path):rep(tonumber(arguments[1]))
end

function request()
    return together
end
