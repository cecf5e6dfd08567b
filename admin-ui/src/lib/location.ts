// The hash of the address names the section, so that a section can be linked to and the back button works.

export const SECTIONS = ["overview", "nodes", "pools", "drains", "routes"] as const;
export type Section = (typeof SECTIONS)[number];

export function sectionOf(hash: string): Section {
  const name = hash.replace(/^#\/?/, "").split("/")[0] ?? "";
  return SECTIONS.find((section) => section === name) ?? "overview";
}

export function hashOf(section: Section): string {
  return section === "overview" ? "#/" : `#/${section}`;
}
