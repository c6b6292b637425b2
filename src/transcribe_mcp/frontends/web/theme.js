// A classic script, so that it runs before the first paint: no flash of the other theme.
for (const name of ["theme", "size"]) {
  try {
    const value = localStorage.getItem(name);
    if (value) document.documentElement.dataset[name] = value;
  } catch {
    break; // a browser without storage
  }
}
