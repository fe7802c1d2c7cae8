const at = id => document.getElementById(id), INTERVAL = 2000, LONGEST = 30000
const write = (element, text) => { if (element && element.textContent != text) element.textContent = text }

// The table: asked for again and again, while somebody can see it.
let delay = INTERVAL, timer = 0, asking = false, paused = false

const fill = (body, rows) => {  // below the row of its title
  while (body.rows.length > rows.length + 1) body.deleteRow(-1)
  rows.forEach((cells, place) => {
    const row = body.rows[place + 1] ?? body.insertRow()
    row.className = cells[0] == "this page" ? "own" : ""
    cells.forEach((text, column) => write(row.cells[column] ?? row.insertCell(), text))
  })
}

const show = table => {
  for (const name of ["listening", "connected", "time_wait"]) fill(at(name), table[name])
  for (const name of ["peer", "local"]) if (table[name]) {
    write(at(`${name}-host`), table[name][0])
    write(at(`${name}-port`), table[name][1])
  }
  for (const name of ["received", "sent"]) write(at(name), table[name])
  if ([...at("notes").children].map(note => note.textContent).join() == table.notes.join()) return
  at("notes").replaceChildren(...table.notes.map(text => {
    const note = document.createElement("li")
    note.textContent = text
    return note
  }))
}

const say = (text, gone) => {
  write(at("live"), text)
  at("live").className = gone ? "gone" : ""
}

const ask = async () => {
  clearTimeout(timer)
  if (document.hidden || paused || asking) return
  asking = true
  try {
    const answer = await fetch("sockets", { cache: "no-store", signal: AbortSignal.timeout(10000) })
    if (!answer.ok) throw answer
    show(await answer.json())
    delay = INTERVAL
    say("Live: asked for again every two seconds, while you look.")
  } catch {
    delay = Math.min(2 * delay, LONGEST)
    say(`The server does not answer. Next attempt in ${delay / 1000} seconds.`, true)
  }
  asking = false
  if (!document.hidden && !paused) timer = setTimeout(ask, delay)
}

at("pause").hidden = false
at("pause").onclick = () => {
  paused = !paused
  write(at("pause"), paused ? "Go on" : "Pause")
  if (paused) say("Paused.")
  ask()
}
document.addEventListener("visibilitychange", ask)
timer = setTimeout(ask, INTERVAL)

// The echo. A session is given all that was typed so far each time; what is new in its output is shown.
const form = document.querySelector("form"), log = at("log")
let typed = new Uint8Array(), seen = 0
const join = (a, b) => new Uint8Array([...a, ...b])
const bytes = data => [...data].map(byte => byte.toString(16).padStart(2, "0")).join(" ")
const text = data => {
  let decoded = String.fromCharCode(...data), shown = /[^ -~]/g
  try {
    decoded = new TextDecoder("utf-8", { fatal: true }).decode(data)
    shown = /[^ -~\u00a1-\uffff]/g
  } catch { }  // no text: each byte by itself
  return decoded.replace(shown, character => ({ "\r": "\\r", "\n": "\\n" })[character] ??
    `\\x${character.charCodeAt().toString(16).padStart(2, "0")}`)
}

const note = (kind, arrow, data) => {
  const line = document.createElement("div")
  line.className = kind
  line.textContent = `${arrow} ${text(data)}  ${bytes(data)}`
  log.append(line)
}

const send = async data => {
  if (typed.length + data.length > 2048) { typed = new Uint8Array(); seen = 0 }  // another session
  const input = join(typed, data)
  log.hidden = false
  try {
    const headers = { "Content-Type": "application/octet-stream" }
    const answer = await fetch("echo", { method: "POST", headers, body: input, signal: AbortSignal.timeout(10000) })
    if (!answer.ok) throw answer
    const output = new Uint8Array(await answer.arrayBuffer())
    note("sent", "→", data)
    note("got", "←", output.slice(seen))
    typed = input
    seen = output.length
  } catch (failure) {
    const line = document.createElement("div")
    line.className = "gone"
    line.textContent = failure.status ? `The server has refused it: ${failure.status}.` : "The server does not answer."
    log.append(line)
  }
  while (log.children.length > 100) log.firstChild.remove()
  log.scrollTop = log.scrollHeight
}

if (form) {
  let queue = Promise.resolve()
  const later = data => { queue = queue.then(() => send(data)) }
  form.hidden = false
  form.onsubmit = event => {
    event.preventDefault()
    later(new TextEncoder().encode(`${at("line").value}\r\n`))
    at("line").value = ""
  }
  at("ayt").onclick = () => later(new Uint8Array([255, 246]))
}

// Copies of the commands, where the browser allows them.
if (navigator.clipboard) for (const code of document.querySelectorAll(".commands code")) {
  const button = document.createElement("button")
  button.textContent = "Copy"
  button.setAttribute("aria-label", `Copy ${code.textContent}`)
  button.onclick = async () => {
    await navigator.clipboard.writeText(code.textContent)
    button.textContent = "Copied"
    setTimeout(() => { button.textContent = "Copy" }, 2000)
  }
  code.after(" ", button)
}
