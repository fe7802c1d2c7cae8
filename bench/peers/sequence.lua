-- For wrk: the paths of a file, one a line, in their order, again and again. The arguments name the file.

local requests, count = {}, 0

function init(arguments)
    for path in io.lines(arguments[1]) do
        requests[#requests + 1] = wrk.format("GET", path)
    end
end

function request()
    count = count % #requests + 1
    return requests[count]
end
