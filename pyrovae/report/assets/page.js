// The switch between light and dark: the choice is kept where the browser lets a file keep one.

const THEME = "pyrovae-theme";

function chosenTheme() {
  try {
    return localStorage.getItem(THEME) || "auto";
  } catch {
    return "auto";
  }
}

function setTheme(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  document.dispatchEvent(new Event("themechange"));
}

function startThemes() {
  const switches = document.querySelector(".themes");
  switches.hidden = false;
  const chosen = chosenTheme();
  for (const input of switches.querySelectorAll("input")) {
    input.checked = input.value === chosen;
    input.addEventListener("change", () => {
      setTheme(input.value);
      try {
        localStorage.setItem(THEME, input.value);
      } catch {
        // a page opened from disk may keep nothing
      }
    });
  }
  setTheme(chosen);
}

startThemes();
