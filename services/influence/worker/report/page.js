// The page comes alive: theme, navigation, tables, links.

const THEMES = ["auto", "light", "dark"];

function storedTheme() {
  try {
    return localStorage.getItem("eif-report-theme");
  } catch {
    return null; // a browser may refuse storage to a file
  }
}

function setTheme(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  const button = document.getElementById("theme");
  button.querySelector("span").textContent = `Theme: ${theme}`;
  button.setAttribute("aria-label", `Theme: ${theme}. Switch`);
  button.title = `Theme: ${theme}`;
}

function prepareTheme() {
  let theme = THEMES.includes(storedTheme()) ? storedTheme() : "auto";
  setTheme(theme);
  document.getElementById("theme").addEventListener("click", () => {
    theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
    setTheme(theme);
    try {
      localStorage.setItem("eif-report-theme", theme);
    } catch {
      // then it holds until the page is closed
    }
  });
}

/** Mark the section that is being read in the navigation. */
function prepareNavigation() {
  const links = new Map([...document.querySelectorAll(".side a")].map((link) => [link.hash.slice(1), link]));
  const sections = [...document.querySelectorAll("main > section")];
  let current = null;
  const mark = () => {
    const line = innerHeight * 0.3;
    const reading = sections.findLast((section) => section.getBoundingClientRect().top <= line) || sections[0];
    if (reading === current) return;
    current = reading;
    links.forEach((link, id) => (id === reading.id ? link.setAttribute("aria-current", "true") : link.removeAttribute("aria-current")));
    const bar = document.querySelector(".side");
    const link = links.get(reading.id);
    if (bar.scrollWidth > bar.clientWidth) bar.scrollTo({ left: link.offsetLeft - bar.clientWidth / 2 + link.offsetWidth / 2 });
  };
  let waiting = false;
  addEventListener("scroll", () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      mark();
    });
  }, { passive: true });
  mark();
}

prepareTheme();
listConfusions();
listClasses();
listSamples();
listIssues();
listTestLabels();
listDuplicates();
listGroups();
listFindings();
prepareDialog();
prepareSearch();
prepareNavigation();
if (location.hash.includes("=")) followHash();
else if (location.hash.length > 1) document.getElementById(location.hash.slice(1))?.scrollIntoView();
document.documentElement.dataset.ready = "true";
performance.mark("report-ready");
