// The drawing board in its frame: the page sets its first SMILES and reads the drawn one.
"use strict";
let applet = null;
let first = "";

const size = () => [`${window.innerWidth}px`, `${window.innerHeight}px`];

function jsmeOnLoad() {
  applet = new JSApplet.JSME("board", ...size(), { options: "oldlook,star,nopaste" });
  if (first) applet.readGenericMolecularInput(first);
}

window.addEventListener("resize", () => {
  if (window.innerWidth) applet?.setSize(...size());  // 0 while the dialog is closed
});

// Esc closes the dialog around the frame, too.
window.addEventListener("keydown", (event) => {
  if (event.key === "Escape") window.frameElement?.closest("dialog").close();
}, true);

window.board = {
  smiles: () => (applet ? applet.smiles() : ""),
  begin: (smiles) => {
    first = smiles;
    if (applet && smiles) applet.readGenericMolecularInput(smiles);
  },
};
