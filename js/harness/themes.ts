// The variables and marks by which the hosts tell their theme, as far as the widget reads them.

const LAB_LIGHT = {
  "--jp-layout-color1": "#fff",
  "--jp-ui-font-color1": "rgba(0, 0, 0, 0.87)",
  "--jp-brand-color1": "#1976d2",
  "--jp-border-color2": "#e0e0e0",
};
const LAB_DARK = {
  "--jp-layout-color1": "#111",
  "--jp-ui-font-color1": "rgba(255, 255, 255, 0.87)",
  "--jp-brand-color1": "#2196f3",
  "--jp-border-color2": "#424242",
};
const FONTS = {
  "--jp-ui-font-family": "system-ui, sans-serif",
  "--jp-ui-font-size1": "13px",
  "--jp-code-font-family": "monospace",
};

interface HostTheme {
  variables: Record<string, string>;
  body?: Record<string, string>;
  page: string;
}

export const THEMES: Record<string, HostTheme> = {
  "lab-light": { variables: { ...LAB_LIGHT, ...FONTS }, body: { "data-jp-theme-light": "true" }, page: "#fff" },
  "lab-dark": { variables: { ...LAB_DARK, ...FONTS }, body: { "data-jp-theme-light": "false" }, page: "#111" },
  // VS Code leaves the light JupyterLab variables in place, and a white page behind the widget.
  "vscode-dark": {
    variables: {
      ...LAB_LIGHT,
      "--vscode-editor-background": "#1f1f1f",
      "--vscode-panel-border": "#2b2b2b",
      "--vscode-foreground": "#cccccc",
      "--vscode-button-background": "#0078d4",
      "--vscode-textLink-foreground": "#4daafc",
      "--vscode-button-foreground": "#ffffff",
      "--vscode-focusBorder": "#0078d4",
      "--vscode-font-family": "sans-serif",
    },
    body: { class: "vscode-dark" },
    page: "#fff",
  },
  "vscode-hc": {
    variables: {
      ...LAB_LIGHT,
      "--vscode-editor-background": "#000000",
      "--vscode-foreground": "#ffffff",
      "--vscode-button-background": "#000000",
      "--vscode-textLink-foreground": "#21a6ff",
      "--vscode-button-foreground": "#ffffff",
      "--vscode-contrastBorder": "#6fc3df",
      "--vscode-panel-border": "#6fc3df",
      "--vscode-focusBorder": "#f38518",
      "--vscode-font-family": "sans-serif",
    },
    body: { class: "vscode-high-contrast" },
    page: "#fff",
  },
  plain: { variables: {}, page: "Canvas" },
};

export function applyTheme(name: string): void {
  const theme = THEMES[name];
  if (!theme) {
    throw new Error(`There is no such theme. Choose from ${Object.keys(THEMES).join(", ")}`);
  }
  for (const [variable, value] of Object.entries(theme.variables)) {
    document.documentElement.style.setProperty(variable, value);
  }
  for (const [attribute, value] of Object.entries(theme.body ?? {})) {
    document.body.setAttribute(attribute, value);
  }
  document.body.style.background = theme.page;
}
