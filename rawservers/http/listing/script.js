const up = document.querySelector("a[data-top]")
if (up) {
  const link = Object.assign(document.createElement("a"), { href: up.dataset.top, textContent: "Home" })
  up.before(link, " · ")
}
const table = document.querySelector("table"), heads = [...table.tHead.rows[0].cells]
const order = new Map([...table.querySelectorAll("tbody tr")].map((row, place) => [row, place]))
const keys = [
  row => order.get(row),
  row => Number(row.querySelector("data")?.value ?? 0),
  row => Date.parse(row.querySelector("time").dateTime),
]
heads.forEach((head, column) => {
  const button = document.createElement("button"), key = keys[column]
  button.append(...head.childNodes)
  head.append(button)
  button.onclick = () => {
    const sign = head.getAttribute("aria-sort") == "ascending" ? -1 : 1
    for (const other of heads) other.removeAttribute("aria-sort")
    head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending")
    const compare = (a, b) => sign * (key(a) - key(b)) || order.get(a) - order.get(b)
    for (const body of table.tBodies) for (const row of [...body.rows].sort(compare)) body.append(row)
  }
})
